"""Package metadata from settings.ini, so that it stands in one place."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")
settings = config["DEFAULT"]


def lines(key: str) -> list[str]:
    return [line.strip() for line in settings.get(key, "").splitlines() if line.strip()]


setup(
    version=settings["version"],
    description=settings["description"],
    keywords=settings["keywords"].split(),
    install_requires=lines("requirements"),
    # with hyphens, as their metadata has them: pip before 23.3 finds no extra that is asked for with an underscore
    extras_require={
        key.removesuffix("_requirements").replace("_", "-"): lines(key)
        for key in settings
        if key.endswith("_requirements")
    },
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": [f"{settings['lib_name']}={settings['lib_name']}._modidx:d"],
    },
)
