//! The decoder as PyTorch code, for the model card.

use vae_options::{
    VaeOptions,
    conv::{GROUP, Levels, PADDING, STRIDE},
    pixels,
};

/// Fully connected layers.
pub(super) fn dense(options: &VaeOptions) -> String {
    let VaeOptions { image, hidden_dim, latent_dim, .. } = options;
    let pixels = pixels(*image);
    format!(
        "from torch import nn\nfrom safetensors.torch import load_file\n\
         tensors = load_file(\"model.safetensors\")\n\
         decoder = nn.Sequential(nn.Linear({latent_dim}, {hidden_dim}), nn.ReLU(), \
         nn.Linear({hidden_dim}, {hidden_dim}), nn.ReLU(), nn.Linear({hidden_dim}, {pixels}))\n\
         part = {{k.removeprefix(\"decoder.\"): t for k, t in tensors.items() if \
         k.startswith(\"decoder.\")}}\ndecoder.load_state_dict(part)"
    )
}

/// Convolutional layers: a function from latents to rows of pixels, each image row by row.
pub(super) fn conv(options: &VaeOptions) -> String {
    let levels = Levels::of(options.image);
    let smallest = levels.smallest();
    let [height, width] = smallest.sides;
    let mut lines = vec![
        "from torch.nn import functional as F".to_owned(),
        "from safetensors.torch import load_file".to_owned(),
        "tensors = load_file(\"model.safetensors\")".to_owned(),
        String::new(),
        "def layer(name):".to_owned(),
        "    return [tensors[f\"decoder.{name}.{part}\"] for part in (\"weight\", \"bias\")]"
            .to_owned(),
        String::new(),
        "def decoder(z):".to_owned(),
        "    x = F.silu(F.linear(z, *layer(\"latent\")))".to_owned(),
        "    x = F.silu(F.linear(x, *layer(\"dense\")))".to_owned(),
        format!("    x = x.view(-1, {}, {height}, {width})", smallest.channels),
    ];
    for number in (0..levels.below().len()).rev() {
        let conv = format!("F.conv_transpose2d(x, *layer(\"{number}.conv\"), {STRIDE}, {PADDING})");
        lines.push(format!("    x = {conv}"));
        let [bottom, right] = levels.missing(number);
        if [bottom, right] != [0, 0] {
            lines.push(format!("    x = F.pad(x, (0, {right}, 0, {bottom}), \"replicate\")"));
        }
        let groups = levels.above(number).channels / GROUP;
        let norm = format!("F.group_norm(x, {groups}, *layer(\"{number}.norm\"))");
        lines.push(format!("    x = F.silu({norm})"));
    }
    lines.push(format!("    x = F.conv2d(x, *layer(\"output\"), padding={PADDING})"));
    lines.push("    return x.permute(0, 2, 3, 1).flatten(1)".to_owned());
    lines.join("\n")
}
