"""cubicweb-hasite: make a CubicWeb site highly available."""


def includeme(config) -> None:
    """Hand the cube's routes, tween and subscriber to Pyramid."""
    config.include("cubicweb_hasite.pyramid")
