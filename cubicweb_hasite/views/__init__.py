"""The cube's faces in CubicWeb."""
