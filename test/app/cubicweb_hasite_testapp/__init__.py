"""An application that links images in every way that the schema of CubicWeb allows."""
