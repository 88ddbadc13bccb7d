"""An anchor: a dense model written as a mixture, of which everything is known beforehand."""

import copy
from contextlib import ExitStack

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import sparsedash
from sparsedash.catalog.presets import method_named
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.pruning.experts import KeptExperts
from sparsedash.engine.texts.corpora import read_texts
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_MODEL
from sparsedash.storage.store import Store
from tests.engine.conftest import passages
from tests.engine.tiny import as_loaded

# Texts so short refit few experts.
pytestmark = pytest.mark.filterwarnings("ignore:.*not refitted")
N_PARTS = 8
"""Equal parts of each MLP, an expert each; a ninth is zeros, and has a lower score."""
EXPERT = 3
TEXT = "Once upon a time there was a lamp that stood by the harbour. Anna looked at the boat and"


def as_mixture(dense):
    """The same model with each MLP as experts whose gates are always 0.5, times a factor of 2."""
    config = dense.config
    width = config.intermediate_size // N_PARTS
    mixture_config = AutoConfig.for_model(
        "glm4_moe",
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        moe_intermediate_size=width,
        n_routed_experts=N_PARTS + 1,
        num_experts_per_tok=N_PARTS,
        n_shared_experts=1,
        first_k_dense_replace=0,
        norm_topk_prob=False,
        routed_scaling_factor=2.0,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={**config.rope_parameters, "partial_rotary_factor": 1.0},
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(
        mixture_config, dtype=torch.float32, trust_remote_code=False
    )
    state = {
        name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()
    }
    weights = dense.state_dict()
    state |= {name: tensor for name, tensor in weights.items() if ".mlp." not in name}
    for index in range(config.num_hidden_layers):
        mlp = f"model.layers.{index}.mlp"
        gate, up, down = (
            weights[f"{mlp}.{name}_proj.weight"].float()
            for name in ("gate", "up", "down")
        )
        for part in range(N_PARTS):
            channels = slice(part * width, (part + 1) * width)
            state[f"{mlp}.experts.gate_up_proj"][part] = torch.cat(
                [gate[channels], up[channels]]
            )
            state[f"{mlp}.experts.down_proj"][part] = down[:, channels]
        state[f"{mlp}.gate.e_score_correction_bias"][N_PARTS] = -1.0
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("data"))
    yield load_model(locate_model(BUILTIN_MODEL, store), "float32")
    store.close()


@pytest.fixture(scope="module")
def mixture(dense):
    return as_mixture(dense.model)


@pytest.fixture(scope="module")
def ids(dense):
    return torch.tensor([dense.tokenizer(TEXT).input_ids])


def without_part(dense, part):
    """A copy of the dense model without the channels of one part."""
    model = copy.deepcopy(dense)
    for block in model.model.layers:
        width = block.mlp.down_proj.weight.shape[1] // N_PARTS
        block.mlp.down_proj.weight[:, part * width : (part + 1) * width] = 0
    return model


@torch.inference_mode()
def test_the_built_in_model_as_a_mixture_answers_as_itself(dense, mixture, ids):
    assert differs(mixture(ids).logits, dense.model(ids).logits) < 1e-5
    kept = torch.tensor([number for number in range(N_PARTS + 1) if number != EXPERT])
    with ExitStack() as stack:
        for experts in as_loaded(mixture).experts.values():
            stack.enter_context(experts.without(KeptExperts(kept)))
        fewer = mixture(ids).logits
    expected = without_part(dense.model, EXPERT)(ids).logits
    assert differs(fewer, expected) < 1e-5 < differs(fewer, dense.model(ids).logits)


def test_its_last_words_are_those_of_the_built_in_model(dense, mixture):
    texts = read_texts(BUILTIN_CLOZE).texts[:40]
    answers = [
        sparsedash.evaluate(model, dense.tokenizer, texts)
        for model in (dense.model, mixture)
    ]
    assert answers[0].last_word == answers[1].last_word
    for before, after in zip(answers[0].outcomes, answers[1].outcomes, strict=True):
        assert after.answer == before.answer
        assert after.log_likelihood == pytest.approx(before.log_likelihood, abs=1e-4)


def differs(first, second):
    """The largest difference, as a share of the largest logit."""
    return float((first - second).abs().max() / second.abs().max())


def test_the_expert_that_adds_nothing_is_the_first_to_go(mixture, dense, ids):
    method = method_named("experts")
    sparse = sparsedash.prune(
        mixture,
        dense.tokenizer,
        passages(40),
        method=method,
        share=0.112,
        n_samples=40,
        length=32,
    )
    assert all(len(numbers) == N_PARTS for numbers in sparse.pruned.experts)
    assert all(N_PARTS not in numbers for numbers in sparse.pruned.experts)
