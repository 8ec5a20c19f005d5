"""The networks of Stable Diffusion: the UNet, the VAE, and transformers' CLIP for the text."""
