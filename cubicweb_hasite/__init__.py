"""cubicweb-hasite: make a CubicWeb site highly available."""


def includeme(config) -> None:
    """Add the cube's routes, tweens and subscribers to Pyramid."""
    config.include("cubicweb_hasite.pyramid")
