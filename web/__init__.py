"""The page for people, and the gateway between it and Triton."""
