"""Workarounds that no other test fails without."""

import inspect
from unittest.mock import patch

from base import HasiteTC
from cubicweb import toolsutils
from cubicweb.cwconfig import CubicWebConfiguration

from cubicweb_hasite import upstream


class SourceLinesTC(HasiteTC):
    def test_looked_up_once(self) -> None:
        with patch("inspect.getsourcelines", wraps=inspect.getsourcelines) as looked_up:
            for _ in range(3):
                self.webapp.get("/", headers={"Accept": "text/html"})
        assert looked_up.call_count <= 1


class OptionsTC(HasiteTC):
    def test_remembered(self) -> None:
        environment = "cubicweb.cwconfig.option_value_from_env"
        stock = CubicWebConfiguration.__getitem__
        with (
            patch.dict("os.environ", {"CW_HASITE_IMAGE_MAX_AGE": "12"}),
            patch(environment, wraps=toolsutils.option_value_from_env) as asked,
        ):
            upstream.remember_options()
            try:
                assert [self.config["hasite-image-max-age"] for _ in range(3)] == [12] * 3
                assert asked.call_count == 1
                assert self.config.get("no-such-option") is None
                # what is set while it runs
                self.config.global_set_option("hasite-purge-urls", ["http://127.0.0.1/"])
                assert self.config["hasite-purge-urls"] == ["http://127.0.0.1/"]
                self.config.global_set_option("hasite-purge-urls", [])
                assert self.config["hasite-purge-urls"] == []
            finally:
                CubicWebConfiguration.__getitem__ = stock
                del self.config._hasite_options
