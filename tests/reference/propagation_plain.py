"""Label propagation as its definition reads: every patch against every patch of all context frames, then a mask."""

import torch
import torch.nn.functional as F


def window(h, w, radius):
    """(h·w, h·w): 1 where two patches lie within ``radius`` rows and columns of each other, else 0."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack([y.flatten(), x.flatten()], dim=1)
    return ((place[:, None] - place[None]).abs().amax(-1) <= radius).float()


def propagate_frame(target, context, maps, near, topk, temperature):
    """The soft map (h·w, K) of ``target`` (h·w, C) from ``context`` (frames, h·w, C) with ``maps`` (frames, h·w, K)."""
    affinity = torch.exp(context.flatten(0, 1) @ target.T / temperature)  # (frames · h·w, h·w)
    affinity = affinity * near.repeat(len(context), 1)
    threshold = affinity.topk(min(topk, len(affinity)), dim=0).values[-1]
    affinity[affinity < threshold] = 0
    affinity = affinity / affinity.sum(0, keepdim=True)
    return affinity.T @ maps.flatten(0, 1)


def propagate_video(frames, first_map, context_frames=7, radius=12, topk=5, temperature=0.1):
    """Soft maps (h, w, K) of all frames of a video from their tokens (h, w, C) and the first frame's map (h, w, K)."""
    h, w, _ = frames[0].shape
    near = window(h, w, radius)
    features = [F.normalize(tokens.flatten(0, 1), dim=1) for tokens in frames]
    maps = [first_map.flatten(0, 1)]
    for t in range(1, len(features)):
        context = [0, *range(max(1, t - context_frames), t)]
        sources, labels = torch.stack([features[i] for i in context]), torch.stack([maps[i] for i in context])
        maps.append(propagate_frame(features[t], sources, labels, near, topk, temperature))
    return [soft_map.view(h, w, -1) for soft_map in maps]


def hard_labels(soft_map, size):
    """Labels (H, W) of a soft map (h, w, K): all channels upsampled, each scaled to [0, 1], the highest wins."""
    pixels = F.interpolate(soft_map.permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False)[0]
    for channel in pixels:
        if channel.max() > 0 and channel.max() > channel.min():
            channel -= channel.min().clone()
            channel /= channel.max().clone()
    best = pixels.max(0).values
    return (pixels == best).int().argmax(0).to(torch.uint8)  # of several highest ones the first
