"""Trains the models of this folder on data sets that come with scikit-learn and exports them to ONNX.

    /usr/bin/python3 train.py [digits] [iris] [digits-picture] [digits-wide]

The epoch to keep is chosen on a part of the training rows; the held-out rows only measure the result.
"""

import json
import pathlib
import random
import re
import sys

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

MODELS = pathlib.Path(__file__).resolve().parent.parent
SEED = 7
OPSET = 17
GOLDEN_ROWS = 60

DIGITS_SOURCE = (
    "scikit-learn load_digits: test part of Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, "
    "UCI Machine Learning Repository, https://archive.ics.uci.edu/dataset/80"
)
IRIS_SOURCE = (
    "scikit-learn load_iris: Iris, R. A. Fisher (1936), as in the paper; UCI Machine Learning Repository, "
    "https://archive.ics.uci.edu/dataset/53, whose iris.data differs from it in two rows"
)
LICENSE = "CC BY 4.0"


def main(names):
    torch.set_num_threads(1)
    recipes = {
        "digits": train_digits, "iris": train_iris,
        "digits-picture": train_digits_picture, "digits-wide": train_digits_wide,
    }
    for name in names or recipes:
        random.seed(SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        recipes[name]()


# --- digits: images of 8 x 8, 64 numbers from 0 (white) to 16 (black), as the data set has them ---


class Convolutional(nn.Module):
    """A small convolutional network; the scaling to 0..1 is part of it, so that raw rows can be sent."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(),
            nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Dropout(0.25), nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Dropout(0.25),
            nn.Linear(64, 10),
        )

    def forward(self, image):
        return self.layers(torch.reshape(image / 16.0, (-1, 1, 8, 8)))


class Wide(nn.Module):
    """A perceptron whose weights, and not its arithmetic, are what a run has to move: rows in a batch share them.

    The middle layer holds 9.4 million weights, 38 MB as the floats that a run reads: more than most processors cache.
    """

    def __init__(self, width=3072):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(width, 10),
        )

    def forward(self, image):
        return self.layers(image / 16.0)


class WithProbabilities(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, image):
        return torch.softmax(self.classifier(image), dim=1)


def train_digits():
    train_on_digits(
        "digits",
        Convolutional(),
        "A handwritten digit in an 8x8 grey image. Features: 64 numbers, row by row from the top left, each from 0 "
        "(white) to 16 (black), just as scikit-learn's load_digits has them, so that a row of the data set can be "
        "sent as it is; the scaling is part of the model.",
        epochs=60,
        settings={"image": {
            "width": 8, "height": 8, "channels": "gray", "invert": True, "scale": 16 / 255, "fit": "fill",
        }},
    )


def train_digits_wide():
    train_on_digits(
        "digits-wide",
        Wide(),
        "The same digits read by a perceptron two layers of 3072 wide, for benchmarks: a run is bound by the memory "
        "that the weights take, so batches pay. Features: 64 numbers from 0 (white) to 16 (black), row by row.",
        epochs=12,
        in_bytes="layers.3.weight",
        # One run at a time, on all cores.
        settings={"workers": 1},
    )


def split_digits():
    """Rows to train on, to choose the epoch by, and held out, each with the digits that they are."""
    data = load_digits()
    rows, truth = data.data.astype(np.float32), data.target
    fit_rows, test_rows, fit_truth, test_truth = train_test_split(
        rows, truth, test_size=0.2, stratify=truth, random_state=SEED)
    fit_rows, check_rows, fit_truth, check_truth = train_test_split(
        fit_rows, fit_truth, test_size=0.1, stratify=fit_truth, random_state=SEED)
    return fit_rows, fit_truth, check_rows, check_truth, test_rows, test_truth


def train_on_digits(name, network, description, epochs, in_bytes=None, settings=None):
    fit_rows, fit_truth, check_rows, check_truth, test_rows, test_truth = split_digits()
    fit(network, fit_rows, fit_truth, check_rows, check_truth, epochs)
    if in_bytes is not None:
        round_to_bytes(dict(network.named_parameters())[in_bytes])
    model = WithProbabilities(network).eval()
    with torch.no_grad():
        probabilities = model(torch.from_numpy(test_rows)).numpy()

    folder = folder_of(name)
    file = folder / "1" / "model.onnx"
    torch.onnx.export(
        model, torch.from_numpy(test_rows[:2]), file, opset_version=OPSET, input_names=["image"],
        output_names=["probabilities"], dynamic_axes={"image": {0: "batch"}, "probabilities": {0: "batch"}})
    if in_bytes is not None:
        store_in_bytes(file, f"classifier.{in_bytes}")
    tidy(file)
    describe(folder, description, [str(digit) for digit in range(10)], "image", test_rows, test_truth, probabilities,
             DIGITS_SOURCE, settings)


# --- digits-picture: the same digits as pictures of 32 x 32 pixels, dark on light, as a camera or a page has them ---

SIDE = 32
# Of the pixels of the training pictures, 0 (black) to 1 (white).
MEAN, STD = 0.8, 0.3


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
        )

    def forward(self, image):
        return self.layers((image / 255.0 - MEAN) / STD)


def pictures_of(rows, vary):
    """Rows of the data set as pictures of whole numbers. `vary`: at another place, size, angle, ink and light."""
    ink = torch.from_numpy(rows / 16.0).reshape(-1, 1, 8, 8)
    count = len(ink)
    spread = (lambda low, high: torch.empty(count).uniform_(low, high)) if vary else (
        lambda low, high: torch.full((count,), (low + high) / 2))
    angle, slant = spread(-0.25, 0.25), spread(-0.2, 0.2)
    width, height = spread(0.95, 1.75), spread(0.95, 1.55)
    right, down = spread(-0.3, 0.3), spread(-0.25, 0.25)
    cos, sin = torch.cos(angle), torch.sin(angle)
    place = torch.stack([
        torch.stack([cos * width, (sin + slant) * width, right], dim=1),
        torch.stack([-sin * height, cos * height, down], dim=1),
    ], dim=1)
    large = nn.functional.interpolate(ink, size=(24, 24), mode="bicubic", align_corners=False).clamp(0, 1)
    grid = nn.functional.affine_grid(place, (count, 1, SIDE, SIDE), align_corners=False)
    drawn = nn.functional.grid_sample(large, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # What a pen leaves has edges.
    edge, middle = spread(3.0, 9.0), spread(0.3, 0.5)
    drawn = torch.sigmoid((drawn - middle.view(-1, 1, 1, 1)) * edge.view(-1, 1, 1, 1) * 2)
    paper, dark = spread(0.8, 1.0).view(-1, 1, 1, 1), spread(0.0, 0.4).view(-1, 1, 1, 1)
    picture = paper + (dark - paper) * drawn
    if vary:
        picture = picture + torch.randn_like(picture) * spread(0.0, 0.05).view(-1, 1, 1, 1)
    return (picture.clamp(0, 1) * 255).round().numpy().astype(np.float32)


def train_digits_picture():
    fit_rows, fit_truth, check_rows, check_truth, test_rows, test_truth = split_digits()
    checked, tested = pictures_of(check_rows, vary=True), pictures_of(test_rows, vary=True)
    network = Pictures()
    fit(network, fit_rows, fit_truth, checked, check_truth, epochs=60, prepare=lambda rows: pictures_of(rows, vary=True))
    model = WithProbabilities(network).eval()
    with torch.no_grad():
        probabilities = model(torch.from_numpy(tested)).numpy()
    folder = folder_of("digits-picture")
    file = folder / "1" / "model.onnx"
    torch.onnx.export(
        model, torch.from_numpy(tested[:2]), file, opset_version=OPSET, input_names=["image"],
        output_names=["probabilities"], dynamic_axes={"image": {0: "batch"}, "probabilities": {0: "batch"}})
    tidy(file)
    describe(
        folder,
        "A handwritten digit in a picture: dark on light, filling most of it. Send a PNG, JPEG or WebP of any size, or "
        "32x32 grey pixels, row by row from the top left, each from 0 (black) to 255 (white).",
        [str(digit) for digit in range(10)], "image", tested, test_truth, probabilities, DIGITS_SOURCE,
        {"image": {"channels": "gray", "fit": "fill", "scale": 1}}, golden=30)


def steps_of(weight):
    """What one step of a signed byte is worth, by output of the layer."""
    return (np.abs(weight).max(axis=1, keepdims=True) / 127).astype(np.float32)


def round_to_bytes(parameter):
    """Leaves the weights at what they will be once they were stored as signed bytes."""
    with torch.no_grad():
        weight = parameter.numpy()
        steps = steps_of(weight)
        weight[:] = np.round(weight / steps) * steps


def store_in_bytes(file, name):
    """Stores a weight as signed bytes with a step for each output; the runtime makes floats of them at load."""
    model = onnx.load(file)
    graph = model.graph
    [stored] = [each for each in graph.initializer if each.name == name]
    weight = numpy_helper.to_array(stored)
    steps = steps_of(weight)
    graph.initializer.remove(stored)
    graph.initializer.extend([
        numpy_helper.from_array(np.round(weight / steps).astype(np.int8), f"{name}.bytes"),
        numpy_helper.from_array(steps, f"{name}.steps"),
    ])
    unpack = [
        helper.make_node("Cast", [f"{name}.bytes"], [f"{name}.whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.whole", f"{name}.steps"], [name]),
    ]
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(unpack + nodes)
    onnx.save(model, file)


def fit(network, rows, truth, check_rows, check_truth, epochs, prepare=lambda rows: rows):
    """Adam with a falling rate; keeps the weights that were best on the rows kept for checking.

    `prepare` makes of the rows what the network takes, again for each epoch.
    """
    targets = torch.from_numpy(truth)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best, best_loss = None, float("inf")
    for _ in range(epochs):
        inputs = torch.from_numpy(prepare(rows))
        network.train()
        for part in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs[part]), targets[part]).backward()
            optimizer.step()
        schedule.step()
        network.eval()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(
                network(torch.from_numpy(check_rows)), torch.from_numpy(check_truth)).item()
        if loss < best_loss:
            best, best_loss = {key: value.clone() for key, value in network.state_dict().items()}, loss
    network.load_state_dict(best)


# --- iris: four lengths in centimetres ---


def train_iris():
    data = load_iris()
    fit_rows, test_rows, fit_truth, test_truth = train_test_split(
        data.data, data.target, test_size=0.2, stratify=data.target, random_state=SEED)
    # Log loss in cross-validation of the training rows (5 folds, 10 times, 3 seeds): 0.17 with C 1, 0.09 with 10 and
    # with 100, 0.16 with 1000. Of the two that tie, the smaller keeps the weights smaller.
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=10.0, max_iter=1000))
    pipeline.fit(fit_rows, fit_truth)
    probabilities = pipeline.predict_proba(test_rows)

    scaler, classifier = pipeline[0], pipeline[1]
    weights = {
        "mean": scaler.mean_, "scale": scaler.scale_,
        "coefficients": classifier.coef_.T, "intercepts": classifier.intercept_,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["measurements", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "scale"], ["standardised"]),
            helper.make_node("Gemm", ["standardised", "coefficients", "intercepts"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "iris",
        [helper.make_tensor_value_info("measurements", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    folder = folder_of("iris")
    file = folder / "1" / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8), file)
    tidy(file)
    describe(
        folder,
        "The species of an iris from four measurements in centimetres: sepal length (4.3 to 7.9), sepal width (2.0 "
        "to 4.4), petal length (1.0 to 6.9), petal width (0.1 to 2.5).",
        [str(label) for label in data.target_names], "measurements", test_rows, test_truth, probabilities, IRIS_SOURCE,
        {"features": ["sepal_length", "sepal_width", "petal_length", "petal_width"]})


# --- what all have in common ---


def folder_of(name):
    folder = MODELS / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    return folder


def tidy(file):
    """Checks the file and takes out what only its maker needs, such as the places in the training code."""
    model = onnx.load(file)
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)


def describe(folder, description, labels, input_name, rows, truth, probabilities, source, settings=None,
             golden=GOLDEN_ROWS):
    predicted = probabilities.argmax(axis=1)
    accuracy = float((predicted == truth).mean())
    write(folder / "model.json", {
        "description": description,
        "labels": labels,
        "testAccuracy": round(accuracy, 4),
        "testRows": len(rows),
        "sample": plain(rows[0]),
        **(settings or {}),
        "source": source,
        "license": LICENSE,
    })
    chosen = slice(0, golden)
    write(folder / "1" / "golden.json", {
        "description": "Held-out rows and what the framework that trained the model answers to them.",
        "inputs": {input_name: [plain(row) for row in rows[chosen]]},
        "outputs": {"probabilities": [exact(row) for row in probabilities[chosen]]},
        "labels": [labels[index] for index in predicted[chosen]],
        "truth": [labels[index] for index in truth[chosen]],
    })
    print(f"{folder.name}: {accuracy:.4f} of {len(rows)} held-out rows")


def plain(row):
    """Numbers as the data set prints them: 5.1 and not 5.099999904632568."""
    if np.ndim(row) > 1:
        return [plain(each) for each in row]
    return [int(value) if float(value).is_integer() else float(repr(round(float(value), 6))) for value in row]


def exact(row):
    return [float(f"{float(value):.9g}") for value in row]


def write(path, value):
    """A list of plain values stands on one line."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    joined = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + re.sub(r"\s*\n\s*", " ", found.group(1)) + "]", text)
    path.write_text(joined + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
