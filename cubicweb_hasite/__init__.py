"""cubicweb-hasite: make a CubicWeb site highly available."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # rendering works without Pyramid
    from pyramid.config import Configurator


def includeme(config: "Configurator") -> None:
    """Add the cube's routes, tweens and subscribers to Pyramid."""
    config.include("cubicweb_hasite.pyramid")
