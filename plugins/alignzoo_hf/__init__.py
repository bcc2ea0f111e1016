"""Policy `hf`: any causal language model of transformers, full fine-tuning or LoRA, on CPU or CUDA."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.policy("hf", "alignzoo_hf.model.spec:HF")
    zoo.reward("model", "alignzoo_hf.reward:ModelReward")
    zoo.judge("local", "alignzoo_hf.judge:Local")
    zoo.judge("model", "alignzoo_hf.preference:ModelJudge")
    zoo.engine("alignzoo", "alignzoo_hf.decode.engines:Slots")
    zoo.engine("generate", "alignzoo_hf.decode.engines:Generate")
    zoo.engine("continuous", "alignzoo_hf.decode.engines:Continuous")
