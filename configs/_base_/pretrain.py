"""Everything that a pretraining config can set: the published SelfPatch recipe on ImageNet-1k.

A key that is not here (or no argument of the method, the backbone, a view or the schedule) is refused. Override any of
them on the command line: --cfg-options schedule.epochs=100 data.batch_size=64.

GPU-hours in the configs are estimates. DINO's ViT-S/16 on ImageNet-1k took two servers of 8 V100 20.3 hours a hundred
epochs with 6 local crops and 24.2 with 10 (arXiv 2104.14294, table 8): with 8 about 16 x 22.25 = 356 GPU-hours.
  network   ViT-S/8 x 5.6 (1007 and 180 images/s, table 1); ViT-Ti x 0.37 and Swin-T x 1.25 are assumed
  data      COCO train2017 x 0.092 (118,287 of 1,281,167 images)
  SelfPatch by multiplications: the teacher sees all crops instead of the global ones, x 1.12 at ViT-S/16 (a backward
            pass counted as two forward ones, 680 tokens an image of which 392 are global), and every patch goes through
            a head and the aggregation, x 1.5 in all there; the smaller the network, the larger that share
"""

method = "selfpatch"  # a module of selfpatch.pretrain
model = dict(
    backbone=dict(
        type="VisionTransformer",
        size="small",
        patch_size=16,
        cls_token=False,  # the aggregation module has its own
        final_norm=False,
        drop_path_rate=0.1,  # student only
    ),
    neighbourhood=3,
    wrap=True,
    k=4,
    aggregation="attention",
    patch_loss_weight=0.1,
    patch_out_dim=4096,
    patch_student_temp=0.1,
    patch_teacher_temp=0.04,
    out_dim=65536,
    hidden_dim=2048,
    bottleneck_dim=256,
    student_temp=0.1,
    center_momentum=0.9,
)
views = dict(  # crops of one size go through the network together; a view named local… is for the student alone
    global1=dict(size=224, scale=(0.25, 1.0), blur=1.0, solarize=0.0),
    global2=dict(size=224, scale=(0.25, 1.0), blur=0.1, solarize=0.2),
    local=dict(size=96, scale=(0.05, 0.25), blur=0.5, solarize=0.0, count=8),
)
data = dict(
    root="data/imagenet/train",
    batch_size=128,  # images a process: 8 x 128 = 1024
    workers=8,
)
schedule = dict(
    epochs=200,
    warmup_epochs=10,
    lr=5e-4,  # at a batch of lr_batch
    lr_batch=256,
    min_lr=1e-6,
    weight_decay=0.04,
    weight_decay_end=0.4,
    momentum=0.996,  # of the teacher
    momentum_end=1.0,
    teacher_temp_start=0.04,
    teacher_temp=0.04,
    teacher_temp_warmup_epochs=0,
    freeze_last_layer_epochs=1,
)
optimizer = dict(
    betas=(0.9, 0.999),
    eps=1e-8,
    clip=3.0,
    clip_per_parameter=True,  # False: all gradients by their common norm
)
precision = "fp32"  # or "bf16": autocast of the forward pass, on CPU and GPU
compile = False  # True, or the name of a backend: torch.compile of the student's backbone
seed = 0
checkpoint = dict(
    interval=1,  # epochs between checkpoints
    keep=1,  # how many epoch_<n>.pth stay
    iterations=0,  # between checkpoints within an epoch, iter_<n>.pth: --resume goes on at the next sample; 0: none
)
log_interval = 50  # iterations
