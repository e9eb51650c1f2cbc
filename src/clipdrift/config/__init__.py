"""What a run is: frozen, typed, hashed. Loads no torch."""

from clipdrift.config.load import ConfigError, load_config, parse_config, read_toml
from clipdrift.config.models import (
    DataConfig,
    DataSet,
    EvaluationConfig,
    FullFineTuning,
    LinearProbe,
    Lora,
    Method,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from clipdrift.config.pretraining import PretrainConfig

__all__ = [
    "ConfigError",
    "DataConfig",
    "DataSet",
    "EvaluationConfig",
    "FullFineTuning",
    "LinearProbe",
    "Lora",
    "Method",
    "ModelConfig",
    "OptimConfig",
    "PretrainConfig",
    "RunConfig",
    "load_config",
    "parse_config",
    "read_toml",
]
