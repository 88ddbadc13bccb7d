"""The sizes of a loaded dense model, from which the pages work out what narrower ones save."""

from typing import Any

from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.weight_counts import n_matmul_weights, weights_per_channel
from sparsedash.engine.pruning.surgery import out_weight
from sparsedash.schema import notes
from sparsedash.schema.model_shape import ModelShape
from sparsedash.storage.store import Store


def note_shape(loaded: LoadedModel, store: Store) -> None:
    """Leave the model's sizes in the store, under its identity; asked while the loaded model is the dense one."""
    name = notes.model_shape(loaded.identity)
    shape = shape_of(loaded).plain()
    if store.recall(name) != shape:
        store.remember(name, shape)


def shape_of(loaded: LoadedModel) -> ModelShape:
    """The sizes of this dense model."""
    model, mlps = loaded.model, loaded.mlps
    config: Any = model.config
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    biases = sum(module.bias.numel() for module in mlps[0].inner if module.bias is not None)
    return ModelShape(
        family=config.model_type,
        hidden=len(out_weight(mlps[0])),
        widths=tuple(mlp.width for mlp in mlps),
        per_channel=weights_per_channel(mlps[0]),
        bias_per_channel=biases // mlps[0].width,
        n_matmul=n_matmul_weights(model),
        n_head=model.get_output_embeddings().weight.numel(),
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        attention=heads * head,
        keys=_key_heads(config, heads) * head,
    )


def _key_heads(config: Any, heads: int) -> int:
    if config.model_type == "falcon" and not config.new_decoder_architecture:
        return 1 if config.multi_query else heads
    for name in ("num_key_value_heads", "num_kv_heads"):
        if found := getattr(config, name, None):
            return int(found)
    return heads
