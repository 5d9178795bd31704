"""Two-tower retrieval: a tower that reads a shopper's history, a tower that reads an item, and their inner product.

The item tower adds an embedding of the item's id to what its content says (hashed title words, category, price), so an item that
nobody bought yet has a vector too. Where shop.yaml asks for it, products of like content share a vector besides: they are clustered by
k-means (Lloyd 1982) over random projections of their words and category, and the centres are kept with the weights, so that a product that
comes later has its cluster at once. The history tower pools the newest events by attention of learnt queries (Set Transformer,
Lee et al. 2019) over item vectors with kind-of-event and time-gap embeddings, so that old and new events can mean different things.
Trained to find the items of the next purchase day by softmax over the catalogue; for large catalogues over negatives drawn by
frequency, with their log-probability subtracted (log-Q correction, Bengio & Senécal 2008). Negatives are drawn per step, not
per replica, so that two replicas learn what one would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightmarket.contracts import EVENT_TYPES
from nightmarket.learn.inputs import Examples, Field, as_lists, write_examples
from nightmarket.learn.strategy import tensorflow
from nightmarket.recommend.catalogue import CATEGORY_BUCKETS, PRICE_BUCKETS, WORD_BUCKETS, WORDS, Catalogue
from nightmarket.recommend.histories import DAY, PURCHASE, Histories

GAPS = 24
"""Buckets of time between an event and the moment of prediction: half-octaves of hours from 1 hour to about 2 years."""
TARGETS = 16
"""Items of a purchase day that an example is asked for; of more, the first in a seeded order."""
_QUERIES = 4
_HEADS = 4
_PROJECTED = 64
"""Numbers that a product's content is projected to before it is clustered."""
_SEEN = 50_000
"""Products that the centres are found from, at most."""


@dataclass(frozen=True)
class TowerShape:
    """What the towers are built from; saved beside their weights."""

    items: int
    """Size of the vocabulary; code 0 of the tower is an item beyond it, code n + 1 item n."""
    countries: int
    dim: int
    history: int
    full_softmax: int = 20_000
    """Up to this many items the softmax is over all of them."""
    negatives: int = 4096
    clusters: int = 0
    """Of products with like content, which share a vector; 0: none do."""


def gap_bucket(gap_seconds: np.ndarray) -> np.ndarray:
    """1 … GAPS - 1 from seconds before the moment of prediction; 0 is padding."""
    hours = np.maximum(np.asarray(gap_seconds, np.float64) / 3600.0, 1.0)
    return (1 + np.clip(np.floor(1.65 * np.log2(hours)), 0, GAPS - 2)).astype(np.int32)


def build(shape: TowerShape) -> Any:
    """keras.Model with the layers 'item_tower' and 'history_tower'.

    item_tower: code (n,), words (n, WORDS), category (n,), price (n,) -> (n, dim).
    history_tower: vectors (b, H, dim), kind (b, H), gap (b, H), country (b,) -> (b, dim); kind 0 is padding.
    """
    tensorflow()
    import keras

    dim, length = shape.dim, shape.history
    small = keras.initializers.RandomNormal(stddev=dim**-0.5)
    code = keras.Input((), dtype="int32", name="code")
    words = keras.Input((WORDS,), dtype="int32", name="words")
    category = keras.Input((), dtype="int32", name="category")
    price = keras.Input((), dtype="int32", name="price")
    embedded = keras.layers.Embedding(WORD_BUCKETS, dim, embeddings_initializer=small, name="word")(words)
    present = keras.ops.cast(keras.ops.expand_dims(keras.ops.not_equal(words, 0), -1), embedded.dtype)
    title = keras.ops.sum(embedded * present, axis=1) / keras.ops.maximum(keras.ops.sum(present, axis=1), 1.0)
    content = keras.layers.Concatenate()([
        title, keras.layers.Embedding(CATEGORY_BUCKETS, dim // 2, embeddings_initializer=small, name="category_of")(category),
        keras.layers.Embedding(PRICE_BUCKETS, dim // 4, embeddings_initializer=small, name="price_of")(price),
    ])
    content = keras.layers.Dense(dim, name="content_out")(keras.layers.Dense(dim, activation="gelu", name="content_in")(content))
    identity = keras.layers.Embedding(shape.items + 1, dim, embeddings_initializer=small, name="identity")(code)
    known = keras.ops.cast(keras.ops.expand_dims(keras.ops.not_equal(code, 0), -1), identity.dtype)
    vector = identity * known + content
    if shape.clusters:
        vector = vector + _shared(shape, words, category, small)
    item_tower = keras.Model([code, words, category, price], vector, name="item_tower")

    vectors = keras.Input((length, dim), name="vectors")
    kind = keras.Input((length,), dtype="int32", name="kind")
    gap = keras.Input((length,), dtype="int32", name="gap")
    country = keras.Input((), dtype="int32", name="country")
    x = vectors + keras.layers.Embedding(len(EVENT_TYPES) + 1, dim, embeddings_initializer=small, name="kind_of")(kind)
    x = x + keras.layers.Embedding(GAPS, dim, embeddings_initializer=small, name="gap_of")(gap)
    x = keras.layers.LayerNormalization(name="norm_in")(x)
    where = keras.layers.Embedding(shape.countries + 1, dim, embeddings_initializer=small, name="country_of")(country)
    # the queries: what the country asks for, seen through _QUERIES learnt projections
    asked = keras.layers.Reshape((_QUERIES, dim))(keras.layers.Dense(_QUERIES * dim, name="queries")(where))
    mask = keras.ops.expand_dims(keras.ops.not_equal(kind, 0), 1)
    pooled = keras.layers.MultiHeadAttention(_HEADS, dim // _HEADS, name="pool")(asked, x, attention_mask=mask)
    some = keras.ops.cast(keras.ops.any(keras.ops.not_equal(kind, 0), axis=1, keepdims=True), pooled.dtype)
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(pooled) * some, where])
    joined = keras.layers.Dense(2 * dim, activation="gelu", name="history_in")(joined)
    history_tower = keras.Model([vectors, kind, gap, country], keras.layers.Dense(dim, name="history_out")(joined), name="history_tower")

    inputs = [*item_tower.inputs, *history_tower.inputs]
    return keras.Model(inputs, [item_tower(item_tower.inputs), history_tower(history_tower.inputs)], name="towers")


def _shared(shape: TowerShape, words: Any, category: Any, small: Any) -> Any:
    """(n, dim) the vector of each product's cluster; zero for one without a word and a category."""
    import keras

    fixed = {"trainable": False, "dtype": "float32"}  # a cluster must not hang on a rounding
    place = keras.ops.sum(keras.layers.Embedding(WORD_BUCKETS, _PROJECTED, name="cluster_word", **fixed)(words), axis=1)
    place = place + keras.layers.Embedding(CATEGORY_BUCKETS, _PROJECTED, name="cluster_category", **fixed)(category)
    near = keras.layers.Dense(shape.clusters, name="cluster_near", **fixed)(place)
    said = keras.ops.logical_or(keras.ops.any(keras.ops.not_equal(words, 0), axis=1), keras.ops.not_equal(category, 0))
    code = keras.ops.where(said, keras.ops.argmax(near, axis=-1) + 1, 0)
    shared = keras.layers.Embedding(shape.clusters + 1, shape.dim, embeddings_initializer=small, name="cluster")(code)
    return shared * keras.ops.cast(keras.ops.expand_dims(said, -1), shared.dtype)


def cluster(model: Any, content: dict[str, np.ndarray], seed: int) -> None:
    """Finds the centres of the products' clusters and gives them to `model`, whose products `content` describes."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    tower = model.get_layer("item_tower")
    wide = tower.get_layer("cluster_near").units
    rng = np.random.default_rng([seed, wide])
    tables = []
    rows = [content["words"], content["category"][:, None]]
    for codes, buckets in zip(rows, (WORD_BUCKETS, CATEGORY_BUCKETS), strict=True):
        # rare words tell more (inverse document frequency); a word of one product only tells nothing of others
        seen = np.bincount(np.unique(np.arange(len(codes))[:, None] * buckets + codes) % buckets, minlength=buckets)
        weight = np.where(seen > 1, np.log((1.0 + len(codes)) / (1.0 + seen)), 0.0)
        weight[0] = 0.0
        tables.append((rng.standard_normal((buckets, _PROJECTED)) * (weight / np.sqrt(_PROJECTED))[:, None]).astype(np.float32))
    described = np.flatnonzero((content["words"] > 0).any(axis=1) | (content["category"] > 0))
    if len(described) > _SEEN:
        described = np.sort(rng.choice(described, _SEEN, replace=False))
    places = sum(table[codes[described]].sum(axis=1) for table, codes in zip(tables, rows, strict=True))
    wanted = min(wide, len(np.unique(places, axis=0))) if len(described) else 0
    centres = np.zeros((wide, _PROJECTED), np.float32)
    # the nearest centre c of x is where x·c - |c|²/2 is greatest; centres that are not needed are nowhere near
    bias = np.full(wide, -1e30, np.float32)
    if wanted:
        with threadpool_limits(1):  # threads add up in the order in which they end
            centres[:wanted] = KMeans(wanted, n_init=1, random_state=seed).fit(places).cluster_centers_
        bias[:wanted] = -0.5 * np.square(centres[:wanted]).sum(axis=1)
    for name, values in (("cluster_word", [tables[0]]), ("cluster_category", [tables[1]]), ("cluster_near", [centres.T, bias])):
        tower.get_layer(name).set_weights(values)


def copied(model: Any, shape: TowerShape) -> Any:
    """Towers of the same weights, which go on by themselves."""
    made = build(shape)
    made.set_weights(model.get_weights())
    return made


def take_over(model: Any, old: Any, rows: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Gives `model` the weights of `old`. A table named in `rows` takes the rows (of the old, of the new) that both have; its other
    rows become zero, so that what is new starts from its content alone."""
    known = {v.path: v for v in old.variables}
    for variable in model.variables:
        table = next((t for t in rows if variable.path.split("/")[-2:-1] == [t]), None)
        if table is None:
            variable.assign(known[variable.path].numpy())
            continue
        values = np.zeros(variable.shape, np.float32)
        from_, to = rows[table]
        values[0] = known[variable.path].numpy()[0]
        values[to] = known[variable.path].numpy()[from_]
        variable.assign(values)


def input_fields(shape: TowerShape) -> tuple[Field, ...]:
    """One row a shopper and purchase day: items (H,) tower codes oldest first, kind (H,), gap (H,), country (), targets (TARGETS,)."""
    length = shape.history
    return (Field("items", "int32", (length,)), Field("kind", "int32", (length,)), Field("gap", "int32", (length,)),
            Field("country", "int32"), Field("targets", "int32", (TARGETS,)))


@dataclass(frozen=True)
class RetrievalTask:
    """learn.loop.Task of the two towers."""

    shape: TowerShape
    content: dict[str, np.ndarray]
    """words, category and price by tower code (items + 1, …), row 0 empty: `content_table`."""
    frequency: np.ndarray
    """(items + 1,) how often each is a target; what negatives are drawn by."""
    seed: int
    name: str = "towers"
    border: int = 0
    """Tower codes above it are another shop's items, and nobody chooses between both; 0: there is one shop."""
    dropout: float = 0.0
    """Share of a history's events that a step does not see: what was left out differs from step to step."""

    def build(self) -> Any:
        made = build(self.shape)
        if self.shape.clusters:
            cluster(made, self.content, self.seed)
        return made

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        """(batch,) mean softmax cross-entropy of the targets."""
        return self.scored(model, self.thinned(batch, step), step)[0]

    def valid_losses(self, model: Any, batch: dict[str, Any]) -> Any:
        """The same, of whole histories."""
        return self.scored(model, batch, tensorflow().constant(0, "int64"))[0]

    def thinned(self, batch: dict[str, Any], step: Any) -> dict[str, Any]:
        """The batch with events of its histories turned into padding, drawn by seed and step."""
        if not self.dropout:
            return batch
        tf = tensorflow()
        drawn = tf.random.stateless_uniform(tf.shape(batch["kind"]), tf.stack([tf.constant(self.seed + 1, tf.int64), tf.cast(step, tf.int64)]))
        return batch | {k: tf.where(drawn >= self.dropout, batch[k], 0) for k in ("items", "kind", "gap")}

    def scored(self, model: Any, batch: dict[str, Any], step: Any) -> tuple[Any, Any]:
        """(batch,) losses and (batch, n) logits of what the targets are told from: all items, or those drawn, corrected for how they were.
        At the same step other towers of these items are asked about the same ones."""
        tf = tensorflow()
        item_tower, history_tower = model.get_layer("item_tower"), model.get_layer("history_tower")
        targets = batch["targets"]
        full = self.shape.items <= self.shape.full_softmax
        if full:
            codes = tf.range(self.shape.items + 1)
            index = batch["items"]
        else:
            weights = np.power(np.maximum(self.frequency, 1.0), 0.75)
            weights[0] = 0.0
            chance = tf.constant(weights / weights.sum(), tf.float32)
            drawn = tf.random.stateless_categorical(
                tf.math.log(chance[None, :] + 1e-30), self.shape.negatives, tf.stack([tf.constant(self.seed, tf.int64), tf.cast(step, tf.int64)]),
                dtype=tf.int32)[0]
            needed = tf.concat([tf.reshape(batch["items"], [-1]), tf.reshape(targets, [-1]), drawn], axis=0)
            codes, index = tf.unique(needed)
            size, wanted = tf.size(batch["items"]), tf.size(targets)
            target_index, drawn_index = tf.reshape(index[size : size + wanted], tf.shape(targets)), index[size + wanted :]
            index = tf.reshape(index[:size], tf.shape(batch["items"]))
        vectors = item_tower([codes, *(tf.gather(tf.constant(self.content[k]), codes) for k in ("words", "category", "price"))], training=True)
        user = history_tower([tf.gather(vectors, index), batch["kind"], batch["gap"], batch["country"]], training=True)
        real = tf.cast(targets > 0, tf.float32)
        vectors32, user32 = tf.cast(vectors, tf.float32), tf.cast(user, tf.float32)
        if full:
            logits = self._of_one_shop(tf.matmul(user32, vectors32[1:], transpose_b=True), targets, codes[1:])
            each = tf.gather(tf.nn.log_softmax(logits), tf.maximum(targets - 1, 0), batch_dims=1)
        else:
            correction = tf.math.log(chance * float(self.shape.negatives) + 1e-30)
            logits = tf.matmul(user32, tf.gather(vectors32, drawn_index), transpose_b=True) - tf.gather(correction, drawn)[None, :]
            logits = self._of_one_shop(logits, targets, drawn)
            hit = tf.reduce_any(targets[:, :, None] == drawn[None, None, :], axis=1)
            negative = tf.reduce_logsumexp(tf.where(hit, -1e9, logits), axis=1, keepdims=True)
            positive = tf.einsum("bd,btd->bt", user32, tf.gather(vectors32, target_index)) - tf.gather(correction, targets)
            each = positive - tf.reduce_logsumexp(tf.stack([positive, tf.broadcast_to(negative, tf.shape(positive))]), axis=0)
        return -tf.math.divide_no_nan(tf.reduce_sum(each * real, axis=1), tf.reduce_sum(real, axis=1)), logits

    def _of_one_shop(self, logits: Any, targets: Any, codes: Any) -> Any:
        """`logits` (batch, n) of items with `codes` (n,), those of the shop that the targets are not of out of the question."""
        if not self.border:
            return logits
        tf = tensorflow()
        theirs = tf.reduce_max(targets, axis=1, keepdims=True) > self.border
        return tf.where(theirs == (codes > self.border)[None, :], logits, -1e9)


def content_table(catalogue: Catalogue) -> dict[str, np.ndarray]:
    """words (I + 1, WORDS), category (I + 1,), price (I + 1,) by tower code; row 0 is an item of which nothing is known."""
    return {k: np.concatenate([np.zeros((1, *v.shape[1:]), v.dtype), v]) for k, v in catalogue.hashed().items()}


def country_codes(countries: np.ndarray, known: list[str]) -> np.ndarray:
    """Tower codes of countries: 0 for one that the model has not met."""
    place = {c: n + 1 for n, c in enumerate(known)}
    return np.array([place.get(c, 0) for c in countries], dtype=np.int32)


@dataclass(frozen=True)
class Moments:
    """(shopper, time) pairs at which the towers are asked; events strictly before count."""

    user: np.ndarray
    time: np.ndarray


def sequences(events: Histories, moments: Moments, length: int, codes: np.ndarray) -> dict[str, np.ndarray]:
    """items, kind, gap (n, length) of the newest `length` events before each moment, oldest first, padded with 0 at the end.

    `codes` (I,) turns item codes into tower codes.
    """
    begin = np.searchsorted(events.user, moments.user)
    # events are sorted by (user, time): one search over the combined key finds each moment's end
    span = int(events.time.max(initial=0)) + 2 if len(events) else 2
    key = events.user.astype(np.int64) * span + np.minimum(events.time, span - 1)
    end = np.searchsorted(key, moments.user.astype(np.int64) * span + np.minimum(moments.time, span - 1).astype(np.int64))
    end = np.maximum(end, begin)
    first = np.maximum(begin, end - length)
    at = first[:, None] + np.arange(length)[None, :]
    real = at < end[:, None]
    at = np.where(real, at, 0)
    if not len(events):
        empty = np.zeros((len(moments.user), length), np.int32)
        return {"items": empty, "kind": empty.copy(), "gap": empty.copy()}
    gap = gap_bucket(np.maximum(moments.time[:, None] - events.time[at], 0))
    return {
        "items": np.where(real, codes[events.item[at]], 0).astype(np.int32),
        "kind": np.where(real, events.kind[at].astype(np.int32) + 1, 0).astype(np.int32),
        "gap": np.where(real, gap, 0).astype(np.int32),
    }


def purchase_days(events: Histories, first: float, end: float) -> tuple[Moments, np.ndarray, np.ndarray]:
    """Moments at which each shopper's purchase days between `first` and `end` began, and their purchases.

    Returns (moments, (M,) index of the moment, (M,) item code) with each item once a day. A shopper's very first event has no
    history to learn from and is left out.
    """
    part = events.of(PURCHASE).between(first, end)
    day = part.time // int(DAY)
    keys, index = np.unique(part.user.astype(np.int64) << 32 | day, return_inverse=True)
    start = np.full(len(keys), np.iinfo(np.int64).max)
    np.minimum.at(start, index, part.time)
    user = (keys >> 32).astype(np.int64)
    opening = np.full(events.users, np.iinfo(np.int64).max)
    np.minimum.at(opening, events.user, events.time)
    usable = start > opening[user]
    renumber = np.cumsum(usable) - 1
    pairs = np.unique(index[usable[index]].astype(np.int64) * events.items + part.item[usable[index]])
    return Moments(user[usable], start[usable]), renumber[pairs // events.items], (pairs % events.items).astype(np.int64)


def write(
    folder: Path, name: str, events: Histories, first: float, end: float, shape: TowerShape, codes: np.ndarray,
    countries: np.ndarray, seed: int, block: int = 20_000, weight: float = 1.0,
) -> tuple[list[Path], int]:
    """Writes the examples of purchase days between `first` and `end`, each of `weight`, as Parquet files; (files, examples with a target)."""
    moments, owner, item = purchase_days(events, first, end)
    rng = np.random.default_rng([seed, int(first) % 2**31, int(end) % 2**31])
    # of a basket of more than TARGETS items, the first TARGETS of a seeded order
    order = np.lexsort((rng.random(len(owner)), owner))
    owner, item = owner[order], item[order]
    place = np.arange(len(owner)) - np.searchsorted(owner, np.arange(len(moments.user)))[owner]
    kept = place < TARGETS
    targets = np.zeros((len(moments.user), TARGETS), np.int32)
    targets[owner[kept], place[kept]] = codes[item[kept]]
    files = []
    for start in range(0, len(moments.user), block):
        part = Moments(moments.user[start : start + block], moments.time[start : start + block])
        columns: dict[str, np.ndarray | pa.Array] = {
            k: as_lists(v) for k, v in sequences(events, part, shape.history, codes).items()
        }
        columns["country"] = pa.array(countries[part.user].astype(np.int32))
        columns["targets"] = as_lists(targets[start : start + block])
        columns["weight"] = pa.array((targets[start : start + block] > 0).any(axis=1).astype(np.float32) * np.float32(weight))
        files.append(write_examples(folder, f"{name}-{start // block:04d}", columns))
    return files, int((targets > 0).any(axis=1).sum())


def examples(files: list[Path], shape: TowerShape, batch_size: int, seed: int | None) -> Examples:
    return Examples(tuple(files), input_fields(shape), batch_size, seed=seed)


def item_vectors(model: Any, codes: np.ndarray, content: dict[str, np.ndarray], block: int = 8192) -> np.ndarray:
    """(n, dim) float32 of items given by tower code and content rows (n, …)."""
    tf = tensorflow()
    tower = model.get_layer("item_tower")
    parts = [
        np.asarray(tf.cast(tower([tf.constant(codes[n : n + block].astype(np.int32)),
                                  *(tf.constant(content[k][n : n + block]) for k in ("words", "category", "price"))],
                                 training=False), tf.float32))
        for n in range(0, len(codes), block)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, model.get_layer("item_tower").output_shape[-1]), np.float32)


def encoder(model: Any, block: int = 1024) -> Callable[[Any, dict[str, np.ndarray], np.ndarray], np.ndarray]:
    """A function of item vectors (items, dim; a tensor is not copied), a sequence and countries (n,) to (n, dim) float32 shopper vectors, by the model's weights
    at the time. `sequence["items"]` holds rows of the vectors plus 1, 0 for padding.
    """
    tf = tensorflow()
    tower = model.get_layer("history_tower")
    length, dim = tower.input_shape[0][1:]
    rows = tf.TensorSpec((None, length), tf.int32)

    @tf.function(input_signature=[tf.TensorSpec((None, dim), tf.float32), rows, rows, rows, tf.TensorSpec((None,), tf.int32)])
    def answer(vectors: Any, items: Any, kind: Any, gap: Any, country: Any) -> Any:
        known = tf.cast(tf.expand_dims(items > 0, -1), tf.float32)
        return tf.cast(tower([tf.gather(vectors, tf.maximum(items - 1, 0)) * known, kind, gap, country], training=False), tf.float32)

    traced = answer.get_concrete_function()

    def encode(vectors: Any, sequence: dict[str, np.ndarray], countries: np.ndarray) -> np.ndarray:
        table = tf.convert_to_tensor(vectors)
        parts = [traced(table, *(tf.constant(sequence[k][n : n + block]) for k in ("items", "kind", "gap")), tf.constant(countries[n : n + block])).numpy()
                 for n in range(0, len(countries), block)]
        return np.concatenate(parts) if parts else np.zeros((0, vectors.shape[1]), np.float32)

    return encode
