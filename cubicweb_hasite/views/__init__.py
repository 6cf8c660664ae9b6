"""The views, controllers and components of the cube."""
