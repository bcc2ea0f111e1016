"""`alignzoo serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from alignzoo.cli.common import Debug, NoPlugins, Plugins, console, registry, told

KEY = "ALIGNZOO_API_KEY"
"""The environment variable that a key may stand in, as a command line is no place for secrets."""


@told
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL_DIR", help="A model's directory, or a hub id.")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What clients call it; default: MODEL_DIR.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Where a request has none; default 1.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Where a request has no max_tokens; default 128.")] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="chatml, dialogue, or a Jinja file; default: the tokenizer's own."),
    ] = None,
    listen: Annotated[str, typer.Option(metavar="ADDRESS", help="Serve other machines, too.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Where to listen; default 8767, if free.")] = None,
    api_key: Annotated[str, typer.Option(metavar="KEY", help=f"Who asks must send it; or by {KEY}.")] = "",
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
    debug: Debug = False,
) -> None:
    """Serve a model: /v1/chat/completions and /v1/completions, for judges, evaluations and other tools; Ctrl-C ends."""
    from alignzoo.cli.generating import load
    from alignzoo_serve.server import Serving

    settings = {"temperature": temperature, "max_new_tokens": max_new_tokens, "chat_template": chat_template}
    policy = load(registry(plugin, no_plugin), model, settings)
    called = name or (str(Path(model)) if Path(model).exists() else model)
    serving = Serving(policy, called, host=listen, port=port, key=api_key or os.environ.get(KEY, ""))
    shown = console()
    shown.print(f"{called}: {serving.url}", markup=False, soft_wrap=True)
    if not policy.info().chats:
        shown.print("it has no chat template: only /v1/completions answers", markup=False)
    sys.stdout.flush()
    try:
        serving.run()
    except KeyboardInterrupt:
        pass
    finally:
        serving.close()
