"""Whether a plugin was written for this alignzoo: its module's `api`, against `alignzoo.API_VERSION`."""

from __future__ import annotations

import alignzoo
from alignzoo.errors import PluginError

FORMER = "1.0"
"""What the plugin API of alignzoo 0.1 called itself, before it was opened again."""

LATER = 20
"""How many major versions ahead a plugin may be, for its cure to be an upgrade of alignzoo."""


class ApiMismatch(PluginError):
    """A plugin was written for another API."""

    def __init__(self, api: str, cure: str) -> None:
        super().__init__(f"it is written for alignzoo's plugin API {api!r}, and this is {alignzoo.API_VERSION}")
        self.cure = cure


def check_api(api: object, distribution: str) -> None:
    """Raise unless `api`, a specifier as in ">=0.2,<0.3", takes this API version; an empty one takes every."""
    if api == "":
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # only where a plugin asks for it: it takes a while

    try:
        wanted = SpecifierSet(str(api))
    except InvalidSpecifier as error:
        raise PluginError(f'api is {api!r}, which is no version specifier; write api = ">=0.2,<0.3"') from error
    if wanted.contains(alignzoo.API_VERSION, prereleases=True):
        return
    major, minor = map(int, alignzoo.API_VERSION.split("."))
    plugin = distribution or "the plugin"
    if wanted.contains(FORMER):
        raise ApiMismatch(
            str(api),
            f"the plugin API called itself {FORMER} in alignzoo 0.1: docs/changes.md says what is "
            f'new, and then write api = ">={alignzoo.API_VERSION}"',
        )
    later = [f"{major}.{minor + ahead}" for ahead in range(1, LATER)] + [
        f"{major + ahead}.0" for ahead in range(1, LATER)
    ]
    if any(wanted.contains(version) for version in later):
        raise ApiMismatch(str(api), f"pip install --upgrade alignzoo, or take an older release of {plugin}")
    upgrade = f"pip install --upgrade {distribution}" if distribution else "Bring it up to date"
    raise ApiMismatch(str(api), f"{upgrade}: it is for an older alignzoo")
