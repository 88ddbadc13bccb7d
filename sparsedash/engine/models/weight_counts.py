"""How many weights there are to prune, counted as the published tables count them."""

from torch import Tensor, nn

from sparsedash.engine.pruning.surgery import Mlp, inner_weights, is_projection, out_weight


def n_matmul_weights(model: nn.Module) -> int:
    """Weights of all Linear and Conv layers, the output head included even where it shares the embedding's."""
    weights = (module.weight for module in model.modules() if _is_matmul(module))
    return sum(weight.numel() for weight in weights if isinstance(weight, Tensor))


def weights_per_channel(mlp: Mlp) -> int:
    """Weights that leave the network with one inner channel."""
    return out_weight(mlp).shape[0] + sum(weight.shape[1] for weight in inner_weights(mlp))


def _is_matmul(module: nn.Module) -> bool:
    return is_projection(module) or isinstance(module, nn.modules.conv._ConvNd)
