# %% [markdown]
# # X-SAM in your own Flax loop
#
# You have a training loop in Flax NNX. This page puts X-SAM into it. Three things are new: the
# method in the optimizer's chain, a `grad_fn`, and two numbers to watch. The data are
# scikit-learn's 1,797 handwritten digits. They come with scikit-learn, so nothing is downloaded.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from xsam_jax import curvature, mean_grad_fn, nnx_value_and_grad, oja, xsam

images, labels = load_digits(return_X_y=True)
images = images.astype(np.float32) / 16  # pixels are 0 to 16
train_x, test_x, train_y, test_y = train_test_split(
    images, labels, test_size=500, random_state=0, stratify=labels
)
print(train_x.shape, test_x.shape)

# %% [markdown]
# ## The network
#
# A small one, with dropout. Dropout is here on purpose: it shows what to do with random numbers.


# %%
class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(nnx.relu(self.hidden(x))))


def cross_entropy(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


# %% [markdown]
# ## The step
#
# A step of SGD has one gradient. A step of X-SAM has two. The first is at the weights, as always.
# The second is at a point nearby, which the method chooses. So the method needs a function that
# computes the gradient anywhere: `grad_fn`.
#
# In symbols: $g$ is the gradient at the weights $w$, $v$ is the eigenvector, and X-SAM's step goes
# along $-d$:
#
# $$u = \frac{\nabla f(w + e)}{\lVert \nabla f(w + e) \rVert}, \quad e = \rho \frac{g}{\lVert g
# \rVert}, \qquad d = u - \alpha \lvert \langle u, v \rangle \rvert v$$
#
# Both gradients must see the same images and the same dropout mask. `nnx_value_and_grad` takes care
# of that. It stands in the place of `nnx.value_and_grad`, and gives `grad_fn` as well. The counters
# of the random numbers go on once a step, as without X-SAM.


# %%
@nnx.jit
def train_step(model, optimizer, x, y):
    loss, grads, grad_fn = nnx_value_and_grad(cross_entropy)(model, x, y)
    optimizer.update(model, grads, grad_fn=grad_fn)
    return loss


# %% [markdown]
# ## The loop
#
# The method stands first in the chain. Momentum and the learning rate stand behind it. The rate
# must decay: X-SAM's direction has length about one in every step, and does not shrink by itself.
#
# `oja()` follows the dominant eigenvector of the Hessian without extra gradients. `eigenvalue` and
# `alignment` are in the method's state. `optax.tree.get` finds them inside any chain.

# %%
BATCH, EPOCHS = 64, 20
EPOCH = len(train_x) // BATCH  # steps


def train(method, peak):
    """Trains a new network; returns it, and what was logged in each step."""
    model = Net(nnx.Rngs(0))
    rate = optax.cosine_decay_schedule(peak, decay_steps=EPOCHS * EPOCH)
    chain = optax.chain(method, optax.sgd(rate, momentum=0.9))
    optimizer = nnx.Optimizer(model, chain, wrt=nnx.Param)
    order, log = np.random.default_rng(0), []
    for _ in range(EPOCHS):
        shuffled = order.permutation(len(train_x))[: EPOCH * BATCH]
        for batch in shuffled.reshape(-1, BATCH):
            loss = train_step(model, optimizer, train_x[batch], train_y[batch])
            state = optimizer.opt_state
            seen = [optax.tree.get(state, name) for name in ("eigenvalue", "alignment")]
            log.append([np.asarray(value) for value in (loss, *seen)])
    return model, np.array(log)


model, log = train(xsam(rho=0.05, alpha=0.2, eigenvector=oja()), peak=0.1)

# %% [markdown]
# ## What happened
#
# Each value is of one mini-batch, so it is noisy. The dark lines are means over one epoch.

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 3), num="Loss, eigenvalue and alignment by step")
curves = {"loss": log[:, 0], "eigenvalue": log[:, 1], "size of alignment": np.abs(log[:, 2])}
for axis, (name, values) in zip(axes, curves.items(), strict=True):
    axis.plot(values, alpha=0.3, linewidth=0.8)
    means = np.convolve(values, np.full(EPOCH, 1 / EPOCH), "valid")
    axis.plot(np.arange(EPOCH - 1, len(values)), means, color="C0")
    axis.set(xlabel="step", title=name)
axes[0].set_yscale("log")
axes[2].set_ylim(0, 1)
fig.tight_layout()
plt.show()

# %% [markdown]
# - **loss**: it falls, as it should. A method that fails shows it here first.
# - **eigenvalue**: how sharp the loss is along the eigenvector that the method follows. It is an
#   estimate from mini-batches. It tells whether the method follows something.
# - **alignment**: the cosine between the second gradient and the eigenvector. Zero means that they
#   are orthogonal, and that X-SAM has nothing to correct. The eigenvector has no sign of its own,
#   so the picture has the size alone.
#
# ## Measure what you report
#
# The numbers above are the method's own, for its own use. For a figure in a report measure on
# fixed images, with dropout off. `mean_grad_fn` makes a gradient function of many batches.

# %%
model.eval()
graphdef, params, rest = nnx.split(model, nnx.Param, ...)
fixed = train_x[:1280].reshape(20, 64, 64), train_y[:1280].reshape(20, 64)


def fixed_loss(params, batch):
    return cross_entropy(nnx.merge(graphdef, params, rest), *batch)


grad_fn = mean_grad_fn(fixed_loss, jax.tree.map(jnp.asarray, fixed))
top = curvature.top_eigenpairs(grad_fn, params, key=jax.random.key(0))
print(f"measured: {top.values[0]:.2f}, with a residual of {top.residuals[0]:.2g}")
print(f"the method's estimate in the last epoch: {log[-EPOCH:, 1].mean():.2f}")

# %% [markdown]
# The two differ, and by much. The estimate is of mini-batches, with dropout, and remembers earlier
# steps. Dropout raises the loss, and where the loss is higher it bends more. The measured number
# is of the last weights and of fixed images. Its residual says how far it may be off.
#
# ## And the test images?


# %%
def accuracy(model):
    model.eval()
    return 100 * float(jnp.mean(model(test_x).argmax(1) == test_y))


plain, _ = train(optax.identity(), peak=0.1)
print(f"SGD   {accuracy(plain):.1f} % of {len(test_x)} test images")
print(f"X-SAM {accuracy(model):.1f} %")

# %% [markdown]
# This is one run of each, at a learning rate that nobody tuned. It says that the loop works. It
# does not say which method is better. [Compare methods fairly](compare.py) shows how to find out.
#
# ## Next
#
# - Checkpoints, accumulation, BatchNorm and other libraries: [recipes](../recipes.md).
# - More of the curvature than one number: [the curvature of a trained network](curvature.py).
