# %% [markdown]
# # Compare methods fairly on your own data
#
# Is method A better than method B for you? The honest way to find out has four rules:
#
# 1. **Equal trials.** Every method's learning rate is searched, over the same number of trials.
# 2. **Three sets.** Trials are judged on validation data. The test data are looked at once.
# 3. **Several seeds.** One run says little. This page shows how little.
# 4. **Pairs and intervals.** Runs of the same seed are compared, and the difference has an
#    interval.
#
# To compare on your own data replace `images` and `labels`, and the network.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

from xsam_jax import oja, sam, xsam

images, labels = load_digits(return_X_y=True)
images = jnp.asarray(images / 16, jnp.float32)  # pixels are 0 to 16
labels = jnp.asarray(labels)

# %% [markdown]
# ## The methods
#
# The third one is a control. X-SAM differs from SAM in two things: it normalises the gradient, and
# it corrects it along an eigenvector. The control has only the first. So it tells which of the two
# does the work.

# %%
RHO = 0.05
methods = {
    "SGD": optax.identity(),
    "SAM": sam(RHO),
    "normalised SAM": optax.chain(sam(RHO), optax.normalize_by_update_norm()),
    "X-SAM": xsam(RHO, alpha=0.2, eigenvector=oja()),
}

# %% [markdown]
# ## One run
#
# `run` trains one network, from its seed and its learning rate to its two accuracies. The seed
# decides everything that is random: which images it learns from, the first weights, its batches.
# All methods have the same for the same seed.

# %%
TRAIN, VALID, BATCH, STEPS = 400, 400, 40, 250


def logits_of(params, x):
    return jax.nn.relu(x @ params["hidden"] + params["bias"]) @ params["out"]


def loss_fn(params, rows):
    logits = logits_of(params, images[rows])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()


def accuracy(params, rows):
    return 100 * jnp.mean(logits_of(params, images[rows]).argmax(1) == labels[rows])


def run(method, seed, rate):
    keys = jax.random.split(jax.random.key(seed), 4)
    rows = jax.random.permutation(keys[0], len(images))
    train, valid, test = jnp.split(rows, [TRAIN, TRAIN + VALID])
    he = jax.nn.initializers.he_normal()
    params = {
        "hidden": he(keys[1], (64, 32)),
        "bias": jnp.zeros(32),
        "out": he(keys[2], (32, 10)),
    }
    batches = train[jax.random.randint(keys[3], (STEPS, BATCH), 0, TRAIN)]
    decay = optax.cosine_decay_schedule(1.0, STEPS)
    base = optax.sgd(lambda count: rate * decay(count), momentum=0.9)
    optimizer = optax.chain(method, base)

    def step(carry, batch):
        params, state = carry
        grad_fn = lambda params: jax.grad(loss_fn)(params, batch)
        updates, state = optimizer.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return accuracy(params, valid), accuracy(params, test)


# %% [markdown]
# A run is a pure function of two numbers. So `vmap` makes many of them one program: the seeds and
# the learning rates are axes of arrays. (`rho` and `alpha` may be such axes too.)


# %%
@partial(jax.jit, static_argnums=0)
def runs(method, seeds, rates):
    return jax.vmap(partial(run, method))(seeds, rates)


# %% [markdown]
# ## The search
#
# Eight learning rates for every method, each with the same five seeds. The best mean of the
# validation accuracy wins.

# %%
RATES = np.geomspace(0.01, 1.28, 8)
seeds, rates = map(np.ravel, np.meshgrid(np.arange(5), RATES))

fig, axis = plt.subplots(figsize=(6, 3.4), num="Validation accuracy by learning rate")
best = {}
for i, (name, method) in enumerate(methods.items()):
    valid, _ = runs(method, seeds, rates)
    means = valid.reshape(len(RATES), 5).mean(axis=1)
    best[name] = float(RATES[means.argmax()])
    axis.semilogx(RATES, means, "o-", color=f"C{i}", label=name)
    axis.plot(best[name], means.max(), "o", color=f"C{i}", markersize=11, fillstyle="none")
axis.set(xlabel="learning rate", ylabel="validation accuracy, %", ylim=(85, None))
axis.legend()
plt.show()
for name, rate in best.items():
    print(f"{name:15} {rate:.3g}")

# %% [markdown]
# The best learning rate need not be the same for all. At the best rate of one method another one
# may look bad. That is why each has its own search. Does a best rate lie at an end of the axis?
# Then search further.
#
# ## The comparison
#
# Now forty new seeds for every method, at its own best rate. The test images are used here for the
# first time.

# %%
SEEDS = np.arange(100, 140)
accuracies = {
    name: np.asarray(runs(method, SEEDS, np.full(len(SEEDS), best[name]))[1])
    for name, method in methods.items()
}


def interval(values):
    """The mean, and its 95 % interval by the bootstrap."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    return values.mean(), *np.percentile(drawn, [2.5, 97.5])


for name, values in accuracies.items():
    mean, low, high = interval(values)
    print(f"{name:15} {mean:.2f} % [{low:.2f}, {high:.2f}]")

# %% [markdown]
# Some of these intervals may overlap. That is not the answer yet. An easy draw of images is easy
# for all methods. So take the difference *within* each seed: what the seeds have in common drops
# out.


# %%
def verdict(low, high):
    return "no difference shown" if low <= 0 <= high else "better" if low > 0 else "worse"


fig, axis = plt.subplots(figsize=(6, 2.8), num="Difference to SAM, seed by seed")
others = [name for name in methods if name != "SAM"]
for place, name in enumerate(others):
    differences = accuracies[name] - accuracies["SAM"]
    mean, low, high = interval(differences)
    axis.plot(differences, np.full(len(SEEDS), place), "|", color="gray", alpha=0.6)
    axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", capsize=4, color="C0")
    print(f"{name:15} {mean:+.2f} [{low:+.2f}, {high:+.2f}]  {verdict(low, high)}")
axis.axvline(0, color="black", linewidth=0.8)
axis.set(yticks=range(len(others)), yticklabels=others, ylim=(-0.6, len(others) - 0.4))
axis.set_xlabel("test accuracy minus SAM's, points")
fig.tight_layout()
plt.show()

# %% [markdown]
# The dots are means with their intervals. The gray marks are single seeds. An interval that holds
# zero means: not shown by these seeds. It does not mean that the methods are equal. Three
# comparisons also give chance three tries; `experiments.benchmark` corrects for that (Holm).
#
# And compare X-SAM with its control, not with SAM alone. Only that says what the eigenvector adds.

# %%
mean, low, high = interval(accuracies["X-SAM"] - accuracies["normalised SAM"])
print(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]  {verdict(low, high)}")

# %% [markdown]
# ## One seed misleads
#
# What would you have concluded from one seed? Each seed names a winner, so let all of them vote.

# %%
table = np.stack(list(accuracies.values()))
wins = np.sum((table == table.max(axis=0)) / (table == table.max(axis=0)).sum(axis=0), axis=1)
for name, share in zip(methods, wins / len(SEEDS), strict=True):
    print(f"{name:15} wins {share:.0%} of the seeds (ties are shared)")

differences = accuracies["X-SAM"] - accuracies["SAM"]
print(f"single seeds have X-SAM from {differences.min():+.1f} to {differences.max():+.1f} of SAM")

# %% [markdown]
# And three seeds, or ten? Draw that many of the forty again and again, and look at the mean
# difference between X-SAM and SAM.

# %%
rng = np.random.default_rng(1)
sizes = [1, 3, 5, 10, 20, 40]
means = [rng.choice(differences, (20_000, size)).mean(axis=1) for size in sizes]

fig, axis = plt.subplots(figsize=(6, 3), num="The difference that you would report, by seeds")
low, high = np.array([np.percentile(drawn, [2.5, 97.5]) for drawn in means]).T
axis.fill_between(sizes, low, high, alpha=0.3, label="95 % of all draws")
axis.axhline(differences.mean(), color="C0", label="mean of all forty")
axis.axhline(0, color="black", linewidth=0.8)
axis.set(xscale="log", xlabel="seeds", ylabel="X-SAM minus SAM, points")
axis.set_xticks(sizes, sizes)
axis.legend()
plt.show()

for size, drawn in zip(sizes, means, strict=True):
    print(f"{size:2} seeds: X-SAM looks worse than SAM in {np.mean(drawn < 0):.0%} of draws")

# %% [markdown]
# ## What this does not say
#
# - X-SAM is with Oja's rule here, not with its authors' power iteration.
# - `rho` and `alpha` were not searched. SAM and X-SAM may each want another radius.
# - This is a tiny network on tiny images. Yours may behave in another way: run it on yours.
# - The learning rate was searched on eight points, with a noise of its own.
#
# The same at a larger scale, with reports: [`experiments.benchmark`](../training.md), and [what it
# found](../benchmarks.md).
