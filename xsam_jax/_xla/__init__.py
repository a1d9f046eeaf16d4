"""What the compiler is told, so that gradients are as fast inside of loops as outside of them."""
