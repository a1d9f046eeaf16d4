# %% [markdown]
# # What is the curvature of my trained network?
#
# The Hessian of the loss says how the loss bends around the weights. It is a matrix with as many
# rows as there are weights. Nobody writes it down. `xsam_jax.curvature` asks it questions instead:
# how large are its eigenvalues, how are they spread, what is their sum, and does the gradient
# point along the sharpest direction. All it needs is a function that computes the gradient.
#
# Here a small network is trained three times: with SGD, with SAM and with X-SAM, whose eigenvector
# Oja's rule follows. Then the same questions are put to all three.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from xsam_jax import curvature, mean_grad_fn, oja, sam, xsam

images, labels = load_digits(return_X_y=True)
images = images.astype(np.float32) / 16  # pixels are 0 to 16
train_x, test_x, train_y, test_y = map(
    jnp.asarray,
    train_test_split(images, labels, train_size=1280, random_state=0, stratify=labels),
)

# %% [markdown]
# ## Three trained networks
#
# The network is plain JAX here. One of Flax, Equinox or Haiku works the same way, because
# `curvature` sees nothing of it but the gradient. All three start from the same weights, and see
# the same batches.


# %%
def loss_fn(params, batch):
    x, y = batch
    hidden = jax.nn.relu(x @ params["hidden"] + params["bias"])
    logits = hidden @ params["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def initial(key):
    first, second = jax.random.split(key)
    he = jax.nn.initializers.he_normal()
    return {"hidden": he(first, (64, 64)), "bias": jnp.zeros(64), "out": he(second, (64, 10))}


EPOCHS, BATCH = 20, 64
order = jax.vmap(partial(jax.random.permutation, x=len(train_x)))(
    jax.random.split(jax.random.key(1), EPOCHS)
).reshape(-1, BATCH)


@partial(jax.jit, static_argnums=0)
def train(method):
    rate = optax.cosine_decay_schedule(0.1, decay_steps=len(order))
    optimizer = optax.chain(method, optax.sgd(rate, momentum=0.9))

    def step(carry, rows):
        params, state = carry
        grad_fn = lambda params: jax.grad(loss_fn)(params, (train_x[rows], train_y[rows]))
        updates, state = optimizer.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return (optax.apply_updates(params, updates), state), None

    params = initial(jax.random.key(0))
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), order)
    return params


trained = {
    "SGD": train(optax.identity()),
    "SAM": train(sam(rho=0.1)),
    "X-SAM": train(xsam(rho=0.1, alpha=0.2, eigenvector=oja())),
}
colors = dict(zip(trained, ("C0", "C1", "C2"), strict=True))

# %% [markdown]
# ## One gradient function for everything
#
# The curvature depends on the images that the loss is computed of. Take the whole training set,
# and not one mini-batch: a batch's own Hessian is usually sharper. `mean_grad_fn` goes through the
# batches one by one, so the memory is that of one batch.

# %%
batches = train_x.reshape(-1, BATCH, 64), train_y.reshape(-1, BATCH)
grad_fn = mean_grad_fn(loss_fn, batches)
everything = (train_x, train_y)


def accuracy(params):
    logits = jax.nn.relu(test_x @ params["hidden"] + params["bias"]) @ params["out"]
    return 100 * jnp.mean(logits.argmax(1) == test_y)


for name, params in trained.items():
    print(
        f"{name:6} training loss {loss_fn(params, everything):.4f}, "
        f"gradient's norm {optax.tree.norm(grad_fn(params)):.4f}, "
        f"test accuracy {accuracy(params):.1f} %"
    )

# %% [markdown]
# Look at these numbers first. A small gradient means that the network stands near a minimum, and
# that the Hessian tells the shape around it. And keep the losses in mind. With cross-entropy the
# curvature shrinks as the loss goes to zero. So a network that has gone further looks flatter,
# whatever the method. Here all three have the same learning rate, and X-SAM's steps, which have
# length about one, go further with it. A part of what follows is only that.
#
# ## The largest eigenvalues
#
# An eigenvalue is the curvature along its eigenvector. The largest is the sharpest direction there
# is. Lanczos' method finds it with a few Hessian products, each of the price of two gradients.

# %%
top = {
    name: curvature.top_eigenpairs(grad_fn, params, k=12, num_matvecs=40, key=jax.random.key(2))
    for name, params in trained.items()
}

fig, axis = plt.subplots(figsize=(6, 3.2), num="The twelve largest eigenvalues of each network")
for name, pairs in top.items():
    axis.plot(range(1, 13), pairs.values, "o-", color=colors[name], label=name)
axis.set(xlabel="rank", ylabel="eigenvalue", ylim=0)
axis.legend()
plt.show()

for name, pairs in top.items():
    print(
        f"{name:6} largest {pairs.values[0]:.3f}, largest residual of the twelve "
        f"{pairs.residuals.max():.1e}"
    )

# %% [markdown]
# A residual is a bound: an eigenvalue of the Hessian lies within it of the number that was found.
# So it tells when to stop. If it is too large, raise `num_matvecs`.
#
# There are about as many large eigenvalues as there are classes, less one: nine. That is usual for
# networks that classify.
#
# ## All eigenvalues at once
#
# The density says how many eigenvalues lie where. The axis is logarithmic, because almost all of
# them are near zero.

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 3), sharey=True, num="Spectral density of each network")
for axis, (name, params) in zip(axes, trained.items(), strict=True):
    grid, density = curvature.spectral_density(
        grad_fn, params, num_matvecs=30, num_probes=3, key=jax.random.key(3)
    )
    axis.semilogy(grid, density, color=colors[name])
    axis.plot(top[name].values, np.full(12, 2e-4), "|", color="black")
    axis.set(title=name, xlabel="eigenvalue", ylim=(1e-4, None))
axes[0].set_ylabel("density")
fig.tight_layout()
plt.show()

# %% [markdown]
# The tall peak is at zero: in most directions the loss is flat. The bumps to the right are single
# eigenvalues. The black marks are the twelve from above, and stand on the bumps. Each bump is as
# wide as the smoothing, which is a hundredth of the whole width: its width says nothing about the
# network.
#
# ## The sum of the eigenvalues
#
# The trace is that sum. It is estimated from random vectors, so it comes with a standard error.

# %%
count = sum(leaf.size for leaf in jax.tree.leaves(trained["SGD"]))
for name, params in trained.items():
    value, error = curvature.trace(grad_fn, params, num_probes=100, key=jax.random.key(4))
    share = 100 * top[name].values[:10].sum() / value
    print(
        f"{name:6} trace {value:6.2f} ± {error:.2f}; the ten largest of {count} eigenvalues "
        f"have {share:.0f} % of it"
    )

# %% [markdown]
# ## Does the gradient point along the sharpest direction?
#
# The angle between a mini-batch's gradient and the top eigenvector answers that. In a space of
# many dimensions two random directions are almost orthogonal: 90 degrees. Clearly less means that
# the gradient has more than its share in the sharp direction. An eigenvector has no sign, so an
# angle of 100 degrees is one of 80, and they are folded here.

# %%
fig, axes = plt.subplots(
    1, 3, figsize=(11, 2.6), sharey=True, num="Angles of the gradients to the top eigenvector"
)
for axis, (name, params) in zip(axes, trained.items(), strict=True):
    first = jax.tree.map(lambda stacked: stacked[0], top[name].vectors)
    grads = jax.lax.map(lambda batch, at=params: jax.grad(loss_fn)(at, batch), batches)
    angles = jax.vmap(lambda one, v=first: curvature.angle(one, v))(grads)
    angles = np.minimum(angles, 180 - angles)
    axis.hist(angles, bins=np.arange(0, 91, 5), color=colors[name])
    axis.set(title=f"{name}: median {np.median(angles):.0f}°", xlabel="degrees")
axes[0].set_ylabel("mini-batches")
fig.tight_layout()
plt.show()

spread = np.degrees(1.96 / count**0.5)
print(f"of random directions 95 % would lie between {90 - spread:.1f} and 90 degrees")

# %% [markdown]
# ## What this says, and what it does not
#
# - **It describes these weights on these images.** Take other images, and the numbers change.
# - **Flatter is not better by itself.** Scale one layer up and the next one down by the same
#   factor. A network with ReLU computes the same, but its eigenvalues are others. So compare
#   networks of one kind, trained alike.
# - **The loss counts.** Compare at like training loss, or show it beside the eigenvalue, as above.
# - **This was one seed.** [Compare methods fairly](compare.py) says what one seed is worth.
#
# More: [all functions](../api/curvature.md), [more on how they compute](../curvature.md), and the
# paper's figures, redrawn with them, in [results/figures](../../results/figures/README.md).
