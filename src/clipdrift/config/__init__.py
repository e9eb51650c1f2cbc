"""What a run is: frozen, typed, hashed. Loads no torch."""

from clipdrift.config.load import ConfigError, load_config, parse_config, read_toml
from clipdrift.config.methods import (
    BiasOnly,
    Dora,
    Flyp,
    FullFineTuning,
    LastBlocks,
    LinearProbe,
    Lora,
    LoraOptions,
    LoraPlus,
    LpFt,
    Method,
    NormOnly,
    RsLora,
)
from clipdrift.config.models import (
    DataConfig,
    DataSet,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from clipdrift.config.penalties import Apr, EntropyFloor, L2Sp, Ldifs, Penalty, ZeroShotKl
from clipdrift.config.pretraining import PretrainConfig

__all__ = [
    "Apr",
    "BiasOnly",
    "ConfigError",
    "DataConfig",
    "DataSet",
    "Dora",
    "EntropyFloor",
    "EvaluationConfig",
    "Flyp",
    "FullFineTuning",
    "L2Sp",
    "LastBlocks",
    "Ldifs",
    "LinearProbe",
    "Lora",
    "LoraOptions",
    "LoraPlus",
    "LpFt",
    "Method",
    "ModelConfig",
    "NormOnly",
    "OptimConfig",
    "Penalty",
    "PretrainConfig",
    "RsLora",
    "RunConfig",
    "ZeroShotKl",
    "load_config",
    "parse_config",
    "read_toml",
]
