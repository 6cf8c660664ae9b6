"""cubicweb-hasite: make a CubicWeb site highly available."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the rendering works without Pyramid
    from pyramid.config import Configurator


def includeme(config: "Configurator") -> None:
    """Hand the cube's routes, tween and subscriber to Pyramid."""
    config.include("cubicweb_hasite.pyramid")
