"""When data changes: the hooks that CubicWeb calls."""

#: CubicWeb runs the hooks of this category when a transaction is undone too.
CATEGORY = "undo"
