"""Chapter: the steps of the chapter in its order, each with the lines that changed since, and why.

Knows texts and code. Runs nothing; only `ask_like_the_chapter` asks a worker.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from phi3kit.access.actor import Actor
from phi3kit.core.errors import WorkerFailed
from phi3kit.core.records import Endpoint, WrapperName
from phi3kit.endpoints.invocations import score

Act = Literal["none", "build", "signatures", "predict", "onward"]

_ANSWER_S = 180.0  # plain MLflow loads the model a second time at the first question


@dataclass(frozen=True)
class TourStep:
    """One step of the chapter."""

    title: str
    words: str
    act: Act = "none"
    wrapper: WrapperName | None = None
    chapter: str = ""  # only the lines that are compared
    today: str = ""
    why: tuple[str, ...] = ()


MESSAGES = [{"role": "user", "content": "What is the capital of Spain?"}]
PROMPT = "<|system|>You are a stand-up comedian.<|end|><|user|>Tell me a joke about atom<|end|><|assistant|>"

STEPS: tuple[TourStep, ...] = (
    TourStep(
        title="What MLflow is for",
        words=(
            "MLflow keeps track of a model's life. Its four components all take part here: **Tracking** holds a run for every "
            "build, turn and evaluation; **Projects** let `mlflow run` do a build, a batch or an evaluation; **Models** is the "
            "format that both wrappers are logged in; the **Model Registry** names versions and moves aliases. "
            "The chapter then wraps Phi-3 in two ways. The next steps do the same, with the small Phi-3 that ships with this app."
        ),
    ),
    TourStep(
        title="Transformer Pipeline: the pipeline",
        words=(
            "The first way uses MLflow's transformers flavor, which supports Hugging Face pipelines. "
            "A pipeline for text generation is all it needs."
        ),
        chapter="""pipeline = transformers.pipeline(
    task = "text-generation",
    model = "microsoft/Phi-3-mini-4k-instruct"
)""",
        today="""pipeline = transformers.pipeline(
    "text-generation",
    model=folder,   # or the repository's name
    dtype="auto",
)""",
        why=(
            'The call still runs. `dtype="auto"` keeps the weights as they were published; without it a model may be loaded '
            "at twice its size.",
            "Give MLflow the pipeline and not a path: logging a path fails with today's transformers.",
        ),
    ),
    TourStep(
        title="Transformer Pipeline: log it",
        words=(
            "One call writes the pipeline into MLflow. The task `llm/v1/chat` puts an interface like OpenAI's around it. "
            "Run the step to build this wrapper for real."
        ),
        act="build",
        wrapper="transformers",
        chapter="""model_info = mlflow.transformers.log_model(
    transformers_model = pipeline,
    artifact_path = "phi3-mlflow-model",
    model_config = model_config,
    task = "llm/v1/chat"
)""",
        today="""model_info = mlflow.transformers.log_model(
    pipeline,
    name="phi3-transformers",
    task="llm/v1/chat",
    model_config={"max_new_tokens": 512, ...},
    pip_requirements=["mlflow==...", ...],
)""",
        why=(
            "`artifact_path` is deprecated: a logged model has a `name`, and is stored beside its run.",
            "Without `pip_requirements` MLflow looks for packages that a text model does not use, and stops when torchvision "
            "is missing.",
            "`max_length` counted the prompt too. `max_new_tokens` bounds the answer alone.",
        ),
    ),
    TourStep(
        title="Custom Python Wrapper: the class",
        words=(
            "The second way is for models that no flavor supports, here Phi-3 as an ONNX graph. A Python class loads the graph "
            "once and generates the tokens of each answer. This is the step that changed most."
        ),
        chapter="""prompt = model_input["prompt"][0]
self.params.input_ids = self.tokenizer.encode(prompt)
response = self.phi3_model.generate(self.params)
return self.tokenizer.decode(
    response[0][len(self.params.input_ids):])""",
        today="""generator = og.Generator(self.model, params)
ids = self.tokenizer.encode(prompt)
generator.append_tokens(ids)
stream = self.tokenizer.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    token = generator.get_next_tokens()[0]
    piece = stream.decode(token)""",
        why=(
            "`input_ids` and `Model.generate` left onnxruntime-genai with version 0.6. A Generator takes the prompt and gives "
            "one token at a time.",
            '`["prompt"][0]` answered only the first row of a table. The wrapper here answers each one.',
            "`temperature` alone does nothing: sampling also needs `do_sample`.",
        ),
    ),
    TourStep(
        title="Custom Python Wrapper: log it",
        words=(
            "The class and the ONNX folder become one logged model. Its signature comes from an example: a prompt in, a text out. "
            "Run the step: the weights are exported to int4 first."
        ),
        act="build",
        wrapper="onnx",
        chapter="""model_info = mlflow.pyfunc.log_model(
    artifact_path = artifact_path,
    python_model = Phi3Model(),
    artifacts = {"phi3-mini-onnx": ...},
    signature = infer_signature(input_example, ["Run"]),
)""",
        today="""model_info = mlflow.pyfunc.log_model(
    name="phi3-onnx",
    python_model="onnx_wrapper.py",
    artifacts={"phi3-mini-onnx": ...},
    signature=infer_signature(input_example, ["Run"]),
)""",
        why=(
            "`Phi3Model()` was stored as a pickle, which runs whatever it holds when it is loaded. Today the file itself is "
            "stored, ends in `mlflow.models.set_model(...)`, and loads where pickles are forbidden.",
            "An ONNX folder from the hub caps its memory at 2,047 tokens and crashes beyond them; phi3kit removes the cap.",
        ),
    ),
    TourStep(
        title="Two signatures",
        words=(
            "This is where the two ways differ. The task gave one model a whole chat interface; the example gave the other a single text."
        ),
        act="signatures",
        why=(
            "`llm/v1/chat` has grown: `top_p`, penalties, tools and more came, and some fields became optional. The signature "
            "of the custom wrapper is exactly the chapter's.",
        ),
    ),
    TourStep(
        title="Ask with messages",
        words="The chat interface takes OpenAI's messages, and its answer has choices and usage.",
        act="predict",
        wrapper="transformers",
        chapter="""messages = [{"role": "user", "content": "What is the capital of Spain?"}]
response[0]['choices'][0]['message']['content']""",
        today="""model = mlflow.pyfunc.load_model(model_uri)
messages = [{"role": "user",
    "content": "What is the capital of Spain?"}]
response = model.predict({"messages": messages})
message = response[0]["choices"][0]["message"]
print(message["content"])""",
        why=(
            "The same lines work. Plain `predict` refuses `temperature=0`, `n` and `stream`; phi3kit's workers take them.",
        ),
    ),
    TourStep(
        title="Ask with a raw prompt",
        words=(
            "The custom wrapper takes the exact text that the model reads, including special tokens, and returns a text."
        ),
        act="predict",
        wrapper="onnx",
        chapter="""{"prompt": "<|system|>You are a stand-up comedian.<|end|><|user|>Tell me a joke about atom<|end|><|assistant|>",}""",
        today=f"""model = mlflow.pyfunc.load_model(model_uri)
prompt = {PROMPT!r}
response = model.predict({{"prompt": prompt}})
print(response[0])""",
        why=("The prompt is unchanged. The answer is a list, one text per row.",),
    ),
    TourStep(
        title="Run it anywhere",
        words=(
            "The chapter ends with a model that runs locally or in an Azure Machine Learning workspace. From here the same "
            "logged model can get a name in the registry, a server, a container, Azure, or a table of a million rows."
        ),
        act="onward",
        why=(
            "Azure ended jobs from MLproject files in September 2026, and its MLflow plug-in knows MLflow up to 3.15. The bundle "
            "on Deploy avoids both.",
        ),
    ),
)


def ask_like_the_chapter(endpoint: Endpoint, wrapper: WrapperName, actor: Actor) -> tuple[str, Any]:
    """The chapter's question to a logged model as plain MLflow serves it: (answer, the whole response).

    actor: who asks. Raises NotAllowed or WorkerFailed.
    """
    question = {"messages": MESSAGES} if wrapper == "transformers" else {"prompt": PROMPT}
    again = "Run the step again. The worker restarts if it is gone."
    try:
        reply = score(endpoint, json.dumps(question), actor, _ANSWER_S)
        response = json.loads(reply.text)
    except (WorkerFailed, ValueError, RecursionError) as error:
        why = error.why if isinstance(error, WorkerFailed) else f"{error}."
        raise WorkerFailed("The model did not answer.", why, again) from error
    if reply.status != 200:
        raise WorkerFailed("The model did not answer.", str(response.get("message", response)), again)
    if wrapper == "transformers":
        return str(response[0]["choices"][0]["message"]["content"]).strip(), response
    return str(response[0]).strip(), response
