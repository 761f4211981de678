"""Theme: the colours of charts are seen on their ground, and the file for Streamlit has the same."""

import tomllib

import pytest

from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.ui.shared.theme import DARK, LIGHT
from phi3kit.usage.charts import Palette

THEMES = tomllib.loads((PROJECT_ROOT / ".streamlit" / "config.toml").read_text("utf-8"))["theme"]
BOTH = pytest.mark.parametrize(("name", "palette"), [("light", LIGHT), ("dark", DARK)])


def contrast(one: str, other: str) -> float:
    """The contrast of two colours by WCAG 2.2: 1 to 21. Source: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_is_as_the_standard_has_it() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@BOTH
@pytest.mark.parametrize("series", ["transformers", "onnx", "prompt", "completion", "cached", "neutral"])
def test_every_series_is_seen_on_its_ground(name: str, palette: Palette, series: str) -> None:
    assert palette.background == THEMES[name]["backgroundColor"]
    assert contrast(getattr(palette, series), palette.background) >= 3


@BOTH
def test_text_is_legible_on_its_ground(name: str, palette: Palette) -> None:
    assert palette.text == THEMES[name]["textColor"]
    assert contrast(palette.text, palette.background) >= 4.5


@BOTH
def test_streamlits_own_charts_have_the_same_colours(name: str, palette: Palette) -> None:
    same = [palette.prompt, palette.completion, palette.cached, palette.transformers, palette.onnx]
    assert THEMES[name]["chartCategoricalColors"] == same
