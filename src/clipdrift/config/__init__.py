"""Configuration of runs and pretrainings: frozen, typed, hashed. Loads no torch."""

from clipdrift.config.base import MethodOptions, PenaltyOptions
from clipdrift.config.load import (
    ConfigError,
    legal_keys,
    load_config,
    parse_config,
    put,
    read_toml,
    read_value,
)
from clipdrift.config.methods import (
    BiasOnly,
    Dora,
    Flyp,
    FullFineTuning,
    LastBlocks,
    LinearProbe,
    LogitScale,
    Lora,
    LoraOptions,
    LoraPlus,
    LpFt,
    Method,
    NormOnly,
    Projections,
    RsLora,
)
from clipdrift.config.models import (
    DataConfig,
    EvaluationConfig,
    OptimConfig,
    RunConfig,
)
from clipdrift.config.named import DataSet, ModelConfig
from clipdrift.config.objectives import Classification, ContrastiveObjective, NoTask, Objective
from clipdrift.config.penalties import Apr, EntropyFloor, EntropyPull, L2Sp, Ldifs, Penalty, ZeroShotKl
from clipdrift.config.pretraining import PretrainConfig
from clipdrift.config.rules import RulesConfig

__all__ = [
    "Apr",
    "BiasOnly",
    "Classification",
    "ConfigError",
    "ContrastiveObjective",
    "DataConfig",
    "DataSet",
    "Dora",
    "EntropyFloor",
    "EntropyPull",
    "EvaluationConfig",
    "Flyp",
    "FullFineTuning",
    "L2Sp",
    "LastBlocks",
    "Ldifs",
    "LinearProbe",
    "LogitScale",
    "Lora",
    "LoraOptions",
    "LoraPlus",
    "LpFt",
    "Method",
    "MethodOptions",
    "ModelConfig",
    "NoTask",
    "NormOnly",
    "Objective",
    "OptimConfig",
    "Penalty",
    "PenaltyOptions",
    "PretrainConfig",
    "Projections",
    "RsLora",
    "RulesConfig",
    "RunConfig",
    "ZeroShotKl",
    "legal_keys",
    "load_config",
    "parse_config",
    "put",
    "read_toml",
    "read_value",
]
