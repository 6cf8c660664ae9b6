"""The hooks that CubicWeb calls when data changes, and when an instance starts."""

#: CubicWeb also runs the hooks of this category when a transaction is undone.
CATEGORY = "undo"
