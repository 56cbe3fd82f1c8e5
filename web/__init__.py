"""The web page, and the gateway between the page and Triton."""
