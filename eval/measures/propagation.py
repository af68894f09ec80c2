"""Label propagation through a video by patch similarity: pure functions of tensors, nothing about files.

A patch takes its label from the patches most similar to it in the frames before, within a window around its own place
(arXiv 2104.14294, section 4.2.2). Where the textbook form compares every patch with every patch of eight frames and
then masks most of the result away, this one cuts the target grid into small tiles and compares each with the rows and
columns that its windows can reach: a quarter of the work for small patches, and the memory of one tile. On a GPU
nothing here waits for a result: the host runs ahead.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Span = tuple[int, int, int, int]
TILE = (10, 13)  # rows, columns of patches: smaller tiles waste less of the window, larger ones multiply faster


class LabelPropagation:
    """Carries soft labels from frame to frame of one video.

    The context of a frame is the first frame and the latest ``context_frames`` ones, each with the soft map that it was
    given. Of all context patches within ``radius`` rows and columns of a target patch, those at least as similar as the
    ``topk``-th (so more than ``topk`` on ties) vote with weights softmax(cosine / temperature).

    Args:
        tokens: patch tokens of the first frame (h, w, C), of any length: they are normalised here.
        soft_map: labels of the first frame (h, w, K), one channel a label.
        context_frames: how many frames beside the first one are looked back at.
        radius: half side of the window, in patches.
        topk: how many context patches vote.
        temperature: of the softmax over the voters.
        look_up: look voters up instead of weighing the whole window: faster on a CPU, but it asks whether places are
            tied, which a GPU would have to wait for. None: on a CPU.
    """

    def __init__(
        self,
        tokens: Tensor,
        soft_map: Tensor,
        *,
        context_frames: int = 7,
        radius: int = 12,
        topk: int = 5,
        temperature: float = 0.1,
        look_up: bool | None = None,
    ) -> None:
        h, w, C = tokens.shape
        self.look_up = tokens.device.type == "cpu" if look_up is None else look_up
        self.context_frames, self.topk, self.temperature = context_frames, topk, temperature
        self.rows, self.columns = _spans(h, TILE[0], radius), _spans(w, TILE[1], radius)
        self.outside = [_outside(n, radius, tokens) for n in (h, w)]
        slots = 1 + context_frames  # slot 0 is the first frame's for good, the others are a ring
        # A copy for each tile column: the rows of its window then lie one after the other, ready to be multiplied.
        self.strips = [tokens.new_empty(slots, h, right - left, C) for _, _, left, right in self.columns]
        self.maps = soft_map.new_empty(slots, *soft_map.shape)
        self.seen = 0
        self._remember(F.normalize(tokens, dim=-1), soft_map)

    def step(self, tokens: Tensor) -> Tensor:
        """The soft map (h, w, K) of the next frame, from its patch tokens (h, w, C); both join the context."""
        tokens = F.normalize(tokens, dim=-1)
        frames = min(self.seen, 1 + self.context_frames)
        soft_map = torch.empty_like(self.maps[0])
        for strip, column in zip(self.strips, self.columns):
            for row in self.rows:
                soft_map[row[0] : row[1], column[0] : column[1]] = self._tile(tokens, strip, frames, row, column)
        self._remember(tokens, soft_map)
        return soft_map

    def _remember(self, tokens: Tensor, soft_map: Tensor) -> None:
        if self.seen == 0 or self.context_frames:
            slot = 0 if self.seen == 0 else 1 + (self.seen - 1) % self.context_frames
            for strip, (_, _, left, right) in zip(self.strips, self.columns):
                strip[slot] = tokens[:, left:right]
            self.maps[slot] = soft_map
        self.seen += 1

    def _tile(self, tokens: Tensor, strip: Tensor, frames: int, row: Span, column: Span) -> Tensor:
        """Labels (rows, columns, K) of the T target patches of a tile, from the W places of their common window."""
        (top, bottom, above, below), (start, stop, left, right) = row, column
        target = tokens[top:bottom, start:stop].flatten(0, 1)  # (T, C)
        context = strip[:frames, above:below].flatten(1, 2)  # (frames, W, C)
        similarity = target @ context.transpose(1, 2)  # (frames, T, W)
        rows_off, columns_off = self.outside[0][top:bottom, above:below], self.outside[1][start:stop, left:right]
        outside = (rows_off[:, None, :, None] + columns_off[None, :, None, :]).view(similarity.shape[1:])  # (T, W)
        maps = self.maps[:frames, above:below, left:right]  # (frames, rows, columns, K)
        if self.look_up:
            labels, tied = self._looked_up(similarity, outside, maps)
            if tied.any():  # flat pictures only: these targets let every tie of the whole window vote
                labels[tied] = self._weighed(similarity[:, tied], outside[tied], maps)
        else:
            labels = self._weighed(similarity, outside, maps)
        return labels.view(bottom - top, stop - start, -1)

    def _weighed(self, similarity: Tensor, outside: Tensor, maps: Tensor) -> Tensor:
        """Labels (T, K) by the weights of all places of the window, most of which are 0."""
        everyone = (similarity + outside).transpose(0, 1).flatten(1)  # (T, frames · W)
        threshold = everyone.topk(min(self.topk, everyone.shape[1])).values[:, -1:]  # (T, 1)
        return self._weights(everyone, threshold) @ maps.reshape(-1, maps.shape[-1])

    def _looked_up(self, similarity: Tensor, outside: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (T, K) of the best places alone, and for which targets (T,) more places may be tied than those.

        A place whose best frame is not among a target's ``topk`` best places can hold none of its voters: so only the
        maximum over frames is masked and ranked, an eighth of the similarities, and the places found are looked up
        frame by frame.
        """
        frames, _, W = similarity.shape
        best = similarity.amax(0) + outside  # (T, W)
        # One place more than needed: if that reaches the threshold too, more places may be tied than were looked up.
        value, place = best.topk(min(self.topk + 1, W))  # (T, k + 1)
        voters = similarity.gather(2, place.expand(frames, -1, -1)).masked_fill(value == -torch.inf, -torch.inf)
        voters = voters.permute(1, 2, 0).flatten(1)  # (T, (k + 1) · frames)
        threshold = voters.topk(min(self.topk, voters.shape[1])).values[:, -1:]  # (T, 1)
        patch = place[..., None] + torch.arange(frames, device=place.device) * W  # (T, k + 1, frames)
        weight = self._weights(voters, threshold)
        labels = maps.reshape(frames * W, -1)
        labels = F.embedding_bag(patch.flatten(1), labels, per_sample_weights=weight, mode="sum")  # (T, K)
        return labels, (value[:, -1] >= threshold[:, 0]).logical_and(value[:, -1] > -torch.inf)

    def _weights(self, similarity: Tensor, threshold: Tensor) -> Tensor:
        """Softmax over the similarities of a row that reach its threshold, 0 for the others."""
        return torch.softmax(similarity.masked_fill(similarity < threshold, -torch.inf) / self.temperature, dim=1)


def _spans(length: int, tile: int, radius: int) -> list[Span]:
    """Cuts a side of the grid into tiles: (first, end) of each, and (first, end) of what its windows reach."""
    starts = range(0, length, tile)
    return [(a, min(a + tile, length), max(a - radius, 0), min(a + tile + radius, length)) for a in starts]


def _outside(length: int, radius: int, like: Tensor) -> Tensor:
    """(length, length): 0 where two places along a side lie within ``radius`` of each other, else minus infinity."""
    place = torch.arange(length, device=like.device)
    far = (place[:, None] - place).abs() > radius
    return torch.zeros_like(far, dtype=like.dtype).masked_fill(far, -torch.inf)


def one_hot(labels: Tensor) -> Tensor:
    """Integer labels (h, w) as a soft map (h, w, K), one channel for each of 0 … the largest label there."""
    return F.one_hot(labels.long()).float()


def hard_labels(soft_map: Tensor, size: tuple[int, int]) -> Tensor:
    """The label of every pixel, uint8 (H, W), from a soft map (h, w, K).

    Each channel is upsampled (bilinear) and, if it is positive anywhere, shifted and scaled to [0, 1] (a constant one
    is left as it is); the highest channel wins, the lowest label on ties. Channel by channel, so that memory does not
    grow with the number of objects.
    """
    for label, channel in enumerate(soft_map.permute(2, 0, 1)):
        pixels = F.interpolate(channel[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]  # (H, W)
        low, high = pixels.aminmax()
        scaled = high > low.clamp(min=0)  # a tensor: no device waits here
        pixels = (pixels - low * scaled) / torch.where(scaled, high - low, 1)
        if label == 0:
            highest, winner = pixels, torch.zeros_like(pixels, dtype=torch.uint8)
        else:
            winner.masked_fill_(pixels > highest, label)
            highest = torch.maximum(highest, pixels)
    return winner
