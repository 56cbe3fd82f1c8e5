"""The classes of the model, in the order that every tensor, file and table uses."""

EMOTIONS: tuple[str, ...] = ("neutral", "frustration", "anger", "sadness", "excitement")
