"""`alignzoo doctor`: the environment, and every plugin that is found: whose it is, whether it loads, and the cure."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import typer

import alignzoo
from alignzoo.calling import kept
from alignzoo.cli.common import AsJson, NoPlugins, Plugins, console, registry, told


@told
def doctor(as_json: AsJson = False, plugin: Plugins = None, no_plugin: NoPlugins = None) -> None:
    """Examine the environment and load every plugin. Exit status 1 when something needs a fix."""
    zoo = registry(plugin, no_plugin, warn=lambda message: None)  # the report says it
    plugins = [vars(each) for each in zoo.examine()]
    packages, devices = supported(), find_devices()
    found = {
        "alignzoo": {"version": alignzoo.__version__, "api": alignzoo.API_VERSION},
        "python": platform.python_version(),
        "system": platform.platform(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith("ALIGNZOO_")},
        "packages": packages,
        "devices": devices,
        "plugins": plugins,
        "names": names(zoo),
    }
    problems = find_problems(found)
    if as_json:
        sys.stdout.write(json.dumps(found | {"problems": problems}, indent=2, ensure_ascii=False) + "\n")
    else:
        _print(found, problems)
    if problems:
        raise typer.Exit(1)


def supported() -> list[dict[str, str]]:
    """Each package that alignzoo needs: its version here, and the range that is supported."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("alignzoo") or ()]
    except PackageNotFoundError:
        wanted = []
    found = []
    for each in wanted:
        extra = _extra(each.marker)
        try:
            here = version(each.name)
        except PackageNotFoundError:
            here = ""
        inside = each.specifier.contains(here, prereleases=True) if here else False
        status = "ok" if inside else "outside" if here else "missing"
        if not extra or here:
            found.append(
                {"name": each.name, "version": here, "range": str(each.specifier), "extra": extra, "status": status}
            )
    return sorted(found, key=lambda row: (row["extra"], row["name"]))


def _extra(marker: Any) -> str:
    """The extra that a requirement belongs to; empty for what everybody needs."""
    text = str(marker or "")
    return text.partition("extra ==")[2].strip().strip("\"'") if "extra ==" in text else ""


def find_devices() -> list[dict[str, Any]]:
    """Where a policy can compute."""
    with kept() as failed:  # a torch that cannot be imported is what this is for
        import torch
    if failed.error is not None:
        return [{"name": "torch", "status": f"{type(failed.error).__name__}: {failed.error}"}]
    threads = {"name": "cpu", "threads": torch.get_num_threads(), "cores": os.cpu_count(), "status": "ok"}
    found: list[dict[str, Any]] = [threads]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        gigabytes = round(about.total_memory / 2**30, 1)
        found.append({"name": f"cuda:{index}", "model": about.name, "gigabytes": gigabytes, "status": "ok"})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "status": "ok"})
    return found


def names(zoo: Any) -> list[dict[str, str]]:
    """Names with several owners: shadowed ones, which alignzoo keeps, and those that nobody gets."""
    return [
        {
            "kind": each.kind,
            "name": each.name,
            "owner": each.owner,
            "others": " and ".join(each.conflicts),
            "cure": f"Write {f'{each.plugin}/{each.name}'!r}, or uninstall one of them",
        }
        for each in zoo.list()
        if each.conflicts
    ]


def find_problems(found: Mapping[str, Any]) -> list[str]:
    """What needs a cure, with it."""
    problems = [f"{each['owner']}: {each['cause']}. {each['cure']}" for each in found["plugins"] if each["cause"]]
    for package in found["packages"]:
        if package["status"] != "ok":
            here = (
                f"{package['version']} is {package['status']} of {package['range']}"
                if package["version"]
                else "missing"
            )
            wanted = f"{package['name']}{package['range']}"
            problems.append(f"{package['name']} {here}. pip install '{wanted}'")
    problems += [f"{each['name']}: {each['status']}" for each in found["devices"] if each["status"] != "ok"]
    for each in found["names"]:
        problems.append(f"{each['kind']} {each['name']!r} of {each['owner']}: also {each['others']}. {each['cure']}")
    return problems


def _print(found: Mapping[str, Any], problems: list[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    own = found["alignzoo"]
    out.print(Text(f"alignzoo {own['version']}, plugin API {own['api']}", style="bold"))
    out.print(Text(f"python {found['python']} on {found['system']}"))
    for name, value in found["environment"].items():
        out.print(Text(f"{name}={value}"))

    rows = Table(box=None, pad_edge=False, header_style="bold", title="\npackages", title_justify="left")
    rows.title_style = "bold"
    for heading in ("name", "version", "supported", ""):
        rows.add_column(heading, no_wrap=True)
    for each in found["packages"]:
        said = each["status"] if each["status"] != "ok" else f"extra {each['extra']}" if each["extra"] else ""
        rows.add_row(each["name"], each["version"] or "-", each["range"] or "any", _status(said))
    out.print(rows if found["packages"] else Text("\npackages: the installed alignzoo does not say what it needs"))

    out.print(Text("\ndevices", style="bold"))
    for each in found["devices"]:
        about = [f"{value} {key}" if key != "model" else str(value) for key, value in each.items() if key not in OWN]
        out.print(Text(f"{each['name']}: {', '.join(about) or each['status']}"))

    rows = Table(box=None, pad_edge=False, header_style="bold", title="\nplugins", title_justify="left")
    rows.title_style = "bold"
    for heading, settings in PLUGIN_COLUMNS.items():
        rows.add_column(heading, **settings)
    for each in found["plugins"]:
        owner = f"{each['distribution']} {each['version']}".strip() or "a file"
        brings = ", ".join(each["brings"]) or ", ".join(each["watches"])
        status = "failed" if each["cause"] else f"{each['seconds']:.2f} s"
        rows.add_row(each["plugin"], Text(owner), each["api"] or "any", _status(status), Text(brings))
    out.print(rows)
    if not problems:
        out.print(Text("\nEverything is well.", style="green"))
        return
    out.print(Text(f"\n{len(problems)} to be cured", style="bold red"))
    for problem in problems:
        out.print(Text(f"- {problem}"), soft_wrap=True)


OWN = ("name", "status")

PLUGIN_COLUMNS: dict[str, dict[str, Any]] = {
    "plugin": {"no_wrap": True, "style": "cyan"},
    "distribution": {"no_wrap": True},
    "api": {"no_wrap": True},
    "loads": {"no_wrap": True},
    "brings": {"ratio": 1},
}


def _status(said: str) -> Any:
    from rich.text import Text

    return Text(said, style="bold red" if said in ("failed", "missing", "outside") else "")
