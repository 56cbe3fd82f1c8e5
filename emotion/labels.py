"""The emotions the model tells apart, in the one order that every tensor, file and table uses."""

EMOTIONS: tuple[str, ...] = ("neutral", "frustration", "anger", "sadness", "excitement")
