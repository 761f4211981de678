"""Words: numbers, sizes, times and names as the pages write them.

Knows the viewer's time zone. Draws nothing.
"""

from datetime import datetime
from pathlib import PurePath
from zoneinfo import ZoneInfo

import streamlit as st

from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.tracking.logged_models import LoggedModel

HUGGING_FACE = "Hugging Face"  # a kind of source on Build, and in links to it
_STATES = {
    "ready": ":green[●] ready",
    "starting": ":yellow[●] loading",
    "stopped": ":gray[●] stopped",
    "ended": ":red[●] ended",
}


def shortened(text: str, characters: int) -> str:
    """The beginning of a text, and how much of it is left out."""
    left = len(text) - characters
    return text if left <= 0 else f"{text[:characters]}\n… and {left:,} more characters"


def counted(count: int, what: str) -> str:
    """A number and what it counts: 1 turn, 1,200 turns."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def size(count: float) -> str:
    """A size in MB, or in GB from one on, with one decimal."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def seconds(value: float | None) -> str:
    """A time in ms or s, from a minute on in min and s, from an hour on in h and min; None where no token came."""
    if value is None:
        return "no token"
    if value < 1:
        return f"{value * 1000:,.0f} ms"
    if round(value, 2) < 60:
        return f"{value:.2f} s"
    minutes, rest_s = divmod(round(value), 60)
    return f"{minutes} min {rest_s} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def duration(span_s: float) -> str:
    """A span of time in seconds, minutes or hours."""
    if span_s < 100:
        return f"{span_s:,.0f} s"
    return f"{span_s / 60:,.0f} min" if span_s < 6000 else f"{span_s / 3600:,.1f} h"


def timezone() -> str:
    """The viewer's time zone by name; UTC where the browser does not say."""
    return st.context.timezone or "UTC"


def local(at: float | datetime) -> datetime:
    """A moment in the viewer's zone. at: seconds since the epoch, or a datetime with a zone."""
    zone = ZoneInfo(timezone())
    return at.astimezone(zone) if isinstance(at, datetime) else datetime.fromtimestamp(at, zone)


def date(at: float | datetime, behind_day: str = "%b %H:%M") -> str:
    """A moment in the viewer's zone: its day, and what stands behind it in strftime's format."""
    there = local(at)
    return f"{there.day} {there:{behind_day}}"


def state(name: str) -> str:
    """A worker's or server's state as Markdown."""
    return _STATES[name]


def source_label(source: str) -> str:
    """A source as the pages name it."""
    return "embedded (small)" if source == EMBEDDED else PurePath(source).name or source


def model_label(model: LoggedModel) -> str:
    """A model in a list: which weights, how precise, when it was built."""
    return f"{source_label(model.source)} · {model.precision} · {date(model.created_at)}"
