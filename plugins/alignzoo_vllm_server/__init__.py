"""vLLM's server, on other GPUs or machines: the engine that asks it, and how it gets the weights of each step."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.engine("vllm-server", "alignzoo_vllm_server.engine:VLLMServer")
