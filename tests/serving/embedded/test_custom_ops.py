"""--custom_op_libraries: a model whose operation no build of TensorFlow has is served with its library."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server

SOURCE = """
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"

using namespace tensorflow;

REGISTER_OP("DuetTriple").Input("x: float").Output("y: float").SetShapeFn(shape_inference::UnchangedShape);

class Triple : public OpKernel {
 public:
  explicit Triple(OpKernelConstruction* context) : OpKernel(context) {}
  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    y->flat<float>() = x.flat<float>() * 3.0f;
  }
};
REGISTER_KERNEL_BUILDER(Name("DuetTriple").Device(DEVICE_CPU), Triple);
"""


def build(folder: Path) -> Path:
    """A minute of compiling."""
    source, library = folder / "triple.cc", folder / "triple.so"
    source.write_text(SOURCE)
    flags = [*tf.sysconfig.get_compile_flags(), "-fPIC", "-shared", "-O0", "-w"]
    subprocess.run(["g++", *flags, str(source), "-o", str(library), *tf.sysconfig.get_link_flags()], check=True)
    return library


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("g++"), reason="g++ compiles the operation")
def test_a_model_with_an_operation_of_ones_own_is_served(tmp_path: Path) -> None:
    library = build(tmp_path)
    triple = tf.load_op_library(str(library)).duet_triple

    def signatures() -> Mapping[str, savedmodels.Signature]:
        x = savedmodels.v1.placeholder(tf.float32, [None], name="x")
        return {"serving_default": ({"x": x}, {"y": triple(x)}, savedmodels.PREDICT)}

    model = savedmodels.save(tmp_path / "m" / "1", signatures).parent
    flags = [f"--model_base_path={model}", "--model_name=m", "--max_num_load_retries=0"]
    without, server = Server(tmp_path, flags), None
    try:
        assert without.ended(120) == 255
        assert "DuetTriple" in without.stdout
        server = Server(tmp_path, [*flags, f"--custom_op_libraries={library}"]).ready()
        request = predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto(np.float32([1, 2]))})
        request.model_spec.name = "m"
        assert list(server.prediction.Predict(request, 60).outputs["y"].float_val) == [3, 6]
    finally:
        for started in filter(None, (without, server)):
            started.close()
