"""Everything that an ADE20K config can set, beside ``model`` and ``recipe`` (keys: selfpatch.eval.dense.recipe).

``model`` is mmseg's; the backbone, numbers of channels and classes come from the checkpoint and the data.
"""

crop = 512  # side of the training crops, short side of test images
augment = dict(ratios=(0.5, 2.0), cat_max_ratio=0.75, flip=0.5, photometric=True)
slide = False  # test whole images, not overlapping windows of the crop's size
num_classes = None  # a number insists on it
insists = dict()  # what the checkpoint must be, such as family="swin"
