"""From a corpus to a checkpoint worth serving, with the figures to show for it."""
