"""Published binary networks by name, built from the same layers as searched ones; one short file each."""

import binas.models.bireal
import binas.models.cells
import binas.models.dense
import binas.models.mobilenet
import binas.models.mobilenet_v2
import binas.models.reactnet
import binas.models.real_to_binary
import binas.models.resnet20
import binas.models.resnet_e
import binas.models.resnet_ratio
import binas.models.vgg
import binas.models.xnor_net  # noqa: F401 (all of them register their networks)
from binas.models.build import ModelChoice, build_model
from binas.models.model_registry import MODELS, Model, ModelOptions, Task

__all__ = ["MODELS", "Model", "ModelChoice", "ModelOptions", "Task", "build_model"]
