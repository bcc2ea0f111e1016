"""It is written for another plugin API, and would fail in this one."""

import alignzoo
from alignzoo import what_comes_later

api = ">=2,<3"


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("future", what_comes_later)
