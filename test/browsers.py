"""A real browser on a site."""

from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from servers.support import find_program

SHOWN = "return arguments[0].complete && arguments[0].naturalWidth > 0"
COLOUR = """
    const canvas = document.createElement("canvas");
    canvas.getContext("2d").drawImage(arguments[0], 0, 0);
    return Array.from(canvas.getContext("2d").getImageData(5, 5, 1, 1).data).slice(0, 3);
"""
BYTES_RECEIVED = "return performance.getEntriesByName(arguments[0].src)[0].transferSize"


class Browser:
    """Chromium, on a site."""

    def __init__(self, base_url: str, profile: Path, screenshots: Path) -> None:
        self.base_url = base_url
        self._screenshots = screenshots
        options = webdriver.ChromeOptions()
        options.binary_location = find_program("chromium", "chromium")
        for argument in (
            "--headless",
            "--no-sandbox",  # it refuses root otherwise
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1200,1000",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        driver = find_program("chromedriver", "chromium-driver")
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(driver))

    @property
    def path(self) -> str:
        """What the address bar shows, without the site nor the query."""
        return self.driver.current_url.removeprefix(self.base_url).partition("?")[0]

    def open(self, path: str) -> None:
        self.driver.get(self.base_url + path)

    def wait(self, condition) -> object:
        return WebDriverWait(self.driver, 30).until(lambda _driver: condition())

    def login(self) -> None:
        self.open("login")
        self.driver.find_element(By.NAME, "__login").send_keys("admin")
        self.driver.find_element(By.NAME, "__password").send_keys("admin")
        self.driver.find_element(By.ID, "loginForm").submit()
        self.wait(lambda: self.path != "login")

    def picture(self, selector: str = "img.contentimage") -> WebElement:
        """Return a picture of the page when it is there."""
        image = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.wait(lambda: self.driver.execute_script(SHOWN, image))
        return image

    def colour(self, image: WebElement) -> list[int]:
        return self.driver.execute_script(COLOUR, image)

    def bytes_received(self, image: WebElement) -> int:
        """Return how many bytes the page fetched to show an image: none if it was cached."""
        return self.driver.execute_script(BYTES_RECEIVED, image)

    def resize(self, width: int) -> None:
        """Show pages as in a window of this width, in pixels, which the program's may not have."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def screenshot(self, name: str) -> None:
        self._screenshots.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(self._screenshots / f"{name}.png"))
