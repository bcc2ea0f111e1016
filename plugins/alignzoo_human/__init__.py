"""People in the loop: answers are compared, ranked and graded in a browser, and what people say trains models."""

from __future__ import annotations
