"""A task for tests, `simulated_task:Simulated`: its loss follows a transfer_gap law with noise.

Everything but the evaluation is real: sources, subsets, a language model of a few hundred parameters, the Trainer.
"""

import numpy as np
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from hf_scaling.models import seeded
from hf_scaling.tasks import Measurement
from hf_scaling.tasks.causal_lm import CausalLM

TRUTH = {"A": 40.0, "alpha": 0.4, "G": 2.0, "beta": 0.3, "E": 0.5}
NOISE = 0.005  # of the logarithm of the loss


def law(n_pretrain, n_finetune):
    """The planted loss."""
    gap = TRUTH["A"] * n_pretrain ** -TRUTH["alpha"] + TRUTH["G"]
    return gap * n_finetune ** -TRUTH["beta"] + TRUTH["E"]


class Simulated(CausalLM):
    """A causal language model whose loss is the law's, whatever it has learned."""

    name = "simulated_task:Simulated"

    def is_architecture(self, name):
        return name == "nothing"

    def build(self, name, fields, source, seed):
        with seeded(seed):
            model = _model(len(source.class_names), fields.context)
        model.config.planted = [fields.n_pretrain, 0, seed]
        return model

    def adapt(self, model, fields, source, seed):
        model.config.planted = [model.config.planted[0], fields.n_finetune, seed]
        return model

    def evaluate(self, model, processor, split, batch_size, teacher=None):
        n_pretrain, n_finetune, seed = model.config.planted
        draw = np.random.default_rng([n_pretrain, n_finetune, seed])
        loss = law(n_pretrain, max(n_finetune, 1)) * np.exp(NOISE * draw.standard_normal())
        return Measurement(n_eval=len(split), error=0.5, loss=float(loss))


def _model(n_tokens, context):
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=n_tokens,
            hidden_size=4,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=4,
            max_position_embeddings=context,
            use_cache=False,
            # A head of four dimensions has one pair to rotate.
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        )
    )
