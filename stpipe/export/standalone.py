"""Run an exported model with its own runtime, tokenizers and numpy, and nothing else.

This file lies beside the model as run.py:

    python run.py "a text" "another text"      similarity of the first text with the others (of a reranker: scores)

    from run import Model                      in Python
    model = Model()
    embeddings = model.encode(["a text", "another text"])        dense: array (N, D); sparse: array (N, V)
    scores = model.predict([("a query", "a document")])          rerankers: array (N,) or (N, C)
"""

import json
import os
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


class Model:
    """An exported model.

    folder: that of the export, with export.json; threads: that compute, None leaves it to the runtime.
    """

    def __init__(self, folder=HERE, threads=None):
        with open(os.path.join(folder, "export.json"), encoding="utf-8") as file:
            self.facts = json.load(file)
        self.folder, self.threads = folder, threads
        self.graphs, self.tokenizers = {}, {}

    def encode(self, texts, prompt=None, task=None, batch_size=32, sort=True):
        """Embeddings (N, D) of texts.

        prompt: put before each text, None is the model's default prompt; task: "query" or "document", for models that treat them
        differently; batch_size: texts computed together; sort: by length, which wastes least on padding.
        """
        found = np.concatenate(list(self.batches(texts, prompt, task, batch_size, sort)))
        return found[np.argsort(np.array(self.order(texts, sort), dtype=np.int64), kind="stable")]

    def encode_query(self, texts, **options):
        """Embeddings of search queries."""
        return self.encode(texts, **{"prompt": self.facts["query_prompt"], "task": "query", **options})

    def encode_document(self, texts, **options):
        """Embeddings of documents."""
        return self.encode(texts, **{"prompt": self.facts["document_prompt"], "task": "document", **options})

    def predict(self, pairs, prompt=None, batch_size=32, sort=True):
        """Scores of pairs of texts, activation included: (N,), or (N, C) of a model with several outputs."""
        return self.encode(pairs, prompt, None, batch_size, sort)

    # How it is done

    @staticmethod
    def order(inputs, sort):
        """Places of the inputs in the order that they are computed in."""
        sizes = [len(item) if isinstance(item, str) else sum(map(len, item)) for item in inputs]
        return sorted(range(len(inputs)), key=lambda i: -sizes[i]) if sort else list(range(len(inputs)))

    def batches(self, inputs, prompt, task, batch_size, sort):
        """Results of the inputs in the order that they are computed in, some at a time."""
        route = self.facts["routes"][self.facts["tasks"].get(task, self.facts["default_route"])]
        if prompt is None:
            prompt = self.facts["default_prompt"]
        tokenizer, run = self.tokenizer(route), self.graph(route)
        order = self.order(inputs, sort)
        for start in range(0, len(order), batch_size):
            chosen = [inputs[i] for i in order[start : start + batch_size]]
            yield run(self.tokens(tokenizer, route, chosen, prompt))
        if not order:
            one = self.facts["kind"] == "cross_encoder" and self.facts["width"] == 1
            yield np.empty((0,) if one else (0, self.facts["width"]), dtype=np.float32)

    def tokens(self, tokenizer, route, inputs, prompt):
        """The inputs of the graph for some texts or pairs of texts."""
        whole = [prompt + item if isinstance(item, str) else (prompt + item[0], item[1]) for item in inputs]
        found = tokenizer.encode_batch(whole, add_special_tokens=route["special_tokens"])
        longest = max(1, max(len(item.ids) for item in found))
        ids = np.full((len(found), longest), route["pad_id"], dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, item in enumerate(found):
            count = len(item.ids)
            ids[row, :count] = item.ids
            mask[row, :count] = 1
            types[row, :count] = item.type_ids
        given: dict = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        if "prompt_lengths" in route["inputs"]:
            given["prompt_lengths"] = np.full(len(found), self.prompt_length(tokenizer, route, prompt), dtype=np.int64)
        return {name: given[name] for name in route["inputs"]}

    @staticmethod
    def prompt_length(tokenizer, route, prompt):
        """Leading tokens that belong to the prompt, a special token before it included."""
        ids = tokenizer.encode(prompt, add_special_tokens=route["special_tokens"]).ids if prompt else []
        return len(ids) - (1 if ids and ids[-1] in route["ends"] else 0)

    def tokenizer(self, route):
        name = route["tokenizer"]
        if name not in self.tokenizers:
            from tokenizers import Tokenizer

            made = Tokenizer.from_file(os.path.join(self.folder, name))
            made.no_padding()
            if route["max_length"] is None:
                made.no_truncation()
            else:
                made.enable_truncation(route["max_length"], strategy="longest_first")
            self.tokenizers[name] = made
        return self.tokenizers[name]

    def graph(self, route):
        name = route["graph"]
        if name not in self.graphs:
            path = os.path.join(self.folder, name)
            self.graphs[name] = RUNTIMES[self.facts["runtime"]](path, self.threads)
        return self.graphs[name]


def onnx(path, threads):
    """A function from inputs to the output of an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def openvino(path, threads):
    """A function from inputs to the output of an OpenVINO file, computed in float32 where the file holds float32."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
    if not CORES:
        CORES.append(openvino.Core())
    compiled = CORES[0].compile_model(path, "CPU", settings)
    return lambda inputs: compiled(inputs)[compiled.outputs[0]].copy()


RUNTIMES = {"onnx": onnx, "openvino": openvino}
CORES: list = []  # one for the process: several leave a signal stack behind that is gone when the next signal comes


def serve(model, requests, answers):
    """Answer requests, a JSON line each: encode, latency, facts. Results go into the file that a request names."""
    for line in requests:
        request = json.loads(line)
        try:
            act = ACTIONS[request.pop("do")]
            answer = {"ok": True, **act(model, **request)}
        except Exception as error:
            answer = {"ok": False, "error": type(error).__name__ + ": " + str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def serve_encode(model, inputs, into, prompt=None, task=None, batch_size=32, sort=True):
    """Embeddings or scores as a file: array `values`, of sparse embeddings the entries that are not zero."""
    found = list(model.batches(inputs, prompt, task, batch_size, sort))
    place = np.array(model.order(inputs, sort), dtype=np.int64)
    if model.facts["kind"] != "sparse":
        np.savez(into, values=np.concatenate(found)[np.argsort(place, kind="stable")])
        return {}
    entries, start = [], 0
    for rows in found:
        row, column = np.nonzero(rows)
        entries.append((place[start + row], column, rows[row, column]))
        start += len(rows)
    row, column, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    np.savez(into, rows=row, columns=column, values=values, shape=np.array([len(inputs), model.facts["width"]]))
    return {}


def serve_latency(model, inputs, batch_size, repeats, prompt=None, task=None):
    """Milliseconds of each of some repeats over all inputs, tokenising included."""
    inputs = [item if isinstance(item, str) else tuple(item) for item in inputs]
    list(model.batches(inputs, prompt, task, batch_size, True))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        list(model.batches(inputs, prompt, task, batch_size, True))
        times.append(1000 * (time.perf_counter() - began))
    return {"milliseconds": times}


def serve_facts(model):
    """Packages in use, with their versions."""
    names = sorted({name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
    found = {name: str(getattr(sys.modules.get(name), "__version__", "")) for name in names if not name.startswith("_")}
    return {"modules": found}


ACTIONS: dict = {"encode": serve_encode, "latency": serve_latency, "facts": serve_facts}


def main(arguments):
    """Serve requests from standard input, or show what the model makes of some texts."""
    if arguments[:1] == ["--serve"]:
        answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # whatever a runtime prints must not come between the answers
        serve(Model(threads=int(arguments[1]) or None), sys.stdin, answers)
        return
    model = Model()
    first, others = arguments[0], arguments[1:]
    if model.facts["kind"] == "cross_encoder":
        scores = model.predict([(first, other) for other in others])
    else:
        query, documents = model.encode_query([first])[0], model.encode_document(others)
        scores = documents @ query
        if model.facts["similarity"] == "cosine":
            scores = scores / np.linalg.norm(documents, axis=1) / np.linalg.norm(query)
    for other, score in zip(others, scores.tolist(), strict=True):
        print(score, other)


if __name__ == "__main__":
    main(sys.argv[1:])
