"""What the KServe SDK's clients get of the gateway: test_kserve.py runs this in the SDK's own environment and judges.

Reads one JSON document, writes one. Imports nothing of this project: that environment has only the SDK.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

DTYPES = {"FP32": np.float32, "INT64": np.int64, "BYTES": object}
Told = dict[str, Any]


def request(model: str, inputs: Told, *, binary: bool, **more: Any) -> InferRequest:
    """``binary`` is the form of both the inputs and, over REST, the outputs."""
    made = []
    for name, (datatype, values) in inputs.items():
        array = np.array(values, DTYPES[datatype])
        made.append(InferInput(name, list(array.shape), datatype))
        made[-1].set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model, made, parameters={"binary_data_output": True} if binary else None, **more)


def outputs(response: Any) -> Told:
    """Each output's shape and its values' bytes in hexadecimal."""
    return {one.name: as_told(one.as_numpy()) for one in response.outputs}


def as_told(array: Any) -> Told:
    return {"dtype": str(array.dtype), "shape": list(array.shape), "bytes": array.tobytes().hex()}


async def refusal(call: Awaitable[Any]) -> list[str]:
    """The status and the text of the SDK's error."""
    try:
        await call
    except httpx.HTTPStatusError as error:
        return [str(error.response.status_code), str(error)]
    except grpc.aio.AioRpcError as error:
        return [error.code().name, str(error.details())]
    return ["none", ""]


async def over_rest(asked: Told) -> Told:
    url, told = asked["http"], {}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        told["live"], told["ready"] = await client.is_server_live(url), await client.is_server_ready(url)
        told["models"] = {
            name: await client.is_model_ready(url, name) for name in (*asked["names"], "linear_regression/versions/9")
        }
        for form, binary in (("json", False), ("binary", True)):
            for name, inputs in asked["calls"].items():
                answer = await client.infer(url, request(name, inputs, binary=binary), model_name=name)
                told[f"{form} {name}"] = outputs(answer)
        linear = request("linear_regression", asked["linear"], binary=True, request_id="step 7")
        for variant in asked["variants"]:
            seen: dict[str, str] = {}
            pinned = {"x-duet-variant": variant}
            path = "linear_regression/versions/1"
            answer = await client.infer(url, linear, model_name=path, headers=pinned, response_headers=seen)
            told[f"pin {variant}"] = [seen["x-duet-variant"], seen["x-duet-version"], answer.id, outputs(answer)]
        wrong = request("linear_regression", {"x": ["FP32", [[1.0, 2.0]]]}, binary=False)
        told["unknown model"] = await refusal(client.infer(url, linear, model_name="nobody"))
        told["unknown version"] = await refusal(client.infer(url, linear, model_name="linear_regression/versions/9"))
        told["wrong shape"] = await refusal(client.infer(url, wrong, model_name="linear_regression"))
    return told


async def over_v1(asked: Told) -> Told:
    """KServe's older protocol, which is TensorFlow Serving's REST API and two calls more."""
    url, told = asked["http"], {}
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        told["live"] = await client.is_server_live(url)
        for name in asked["names"]:
            told[f"ready {name}"] = await client.is_model_ready(url, name)
        for name, inputs in asked["calls"].items():
            values = {name: value for name, (_, value) in inputs.items()}
            bare = next(iter(values.values()))
            answer = await client.infer(url, {"instances": bare} if len(values) == 1 else {"inputs": values}, name)
            found = answer.get("predictions", answer.get("outputs"))
            named = found if isinstance(found, dict) else {"": found}
            told[name] = {key: as_told(np.array(value, np.float32)) for key, value in named.items()}
        told["unknown model"] = await refusal(client.infer(url, {"instances": [[1.0]]}, "nobody"))
        told["unknown model's readiness"] = await refusal(client.is_model_ready(url, "nobody"))
    return told


async def over_grpc(asked: Told) -> Told:
    told: Told = {}
    async with InferenceGRPCClient(asked["grpc"]) as client:
        told["live"], told["ready"] = await client.is_server_live(), await client.is_server_ready()
        told["models"] = {name: await client.is_model_ready(name) for name in (*asked["names"], "nobody")}
        for form, binary in (("typed", False), ("raw", True)):
            for name, inputs in asked["calls"].items():
                told[f"{form} {name}"] = outputs(await client.infer(request(name, inputs, binary=binary)))
        linear = {"inputs": asked["linear"], "binary": True}
        for variant in asked["variants"]:
            versioned = request(
                "linear_regression", **linear, model_version="1", request_id="7", request_outputs=[RequestedOutput("y")]
            )
            answer = await client.infer(versioned, headers=[("x-duet-variant", variant)])
            told[f"pin {variant}"] = [answer.model_version, answer.id, outputs(answer)]
        pin = [("x-duet-variant", "jax")]
        told["unknown variant"] = await refusal(client.infer(request("linear_regression", **linear), headers=pin))
        told["unknown model"] = await refusal(client.infer(request("nobody", **linear)))
        told["unknown version"] = await refusal(client.infer(request("linear_regression", **linear, model_version="9")))
        wrong = request("linear_regression", {"x": ["FP32", [[1.0, 2.0]]]}, binary=False)
        told["wrong shape"] = await refusal(client.infer(wrong))
    return told


async def main() -> None:
    asked = json.load(sys.stdin)
    told = {"v2": await over_rest(asked), "v1": await over_v1(asked), "grpc": await over_grpc(asked)}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
