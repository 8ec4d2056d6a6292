"""Models of torchvision."""

from __future__ import annotations

from functools import partial

from torch import nn

from tests.zoo.request import Built, Request, calibrated


def resnet50(request: Request) -> Built:
    from torchvision.models.resnet import Bottleneck, ResNet

    if request.small:
        model = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, width_per_group=8)
    else:
        model = ResNet(Bottleneck, [3, 4, 6, 3])
    return Built(model, (request.image(64, 224),), {}, {"x": request.dims(2, 3)})


def mobilenet_v3_large(request: Request) -> Built:
    from torchvision.models import mobilenetv3

    multiplier = request.pick({"width_mult": 0.25}, {})
    settings, last = mobilenetv3._mobilenet_v3_conf("mobilenet_v3_large", **multiplier)
    model = mobilenetv3.MobileNetV3(settings, last, num_classes=request.pick(10, 1000))
    return calibrated(
        Built(model, (request.image(64, 224),), {}, {"x": request.dims(2, 3)}),
        request.pick((4, 3, 64, 64), (2, 3, 224, 224)),
    )


def efficientnet_b0(request: Request) -> Built:
    from torchvision.models import efficientnet

    width, depth = request.pick((0.25, 0.25), (1.0, 1.0))
    settings, last = efficientnet._efficientnet_conf("efficientnet_b0", width_mult=width, depth_mult=depth)
    model = efficientnet.EfficientNet(settings, 0.2, num_classes=request.pick(10, 1000), last_channel=last)
    return calibrated(
        Built(model, (request.image(64, 224),), {}, {"x": request.dims(2, 3)}),
        request.pick((4, 3, 64, 64), (2, 3, 224, 224)),
    )


def densenet121(request: Request) -> Built:
    from torchvision.models import DenseNet

    if request.small:
        model = DenseNet(growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=16, num_classes=10)
    else:
        model = DenseNet(growth_rate=32, block_config=(6, 12, 24, 16), num_init_features=64)
    return calibrated(
        Built(model, (request.image(64, 224),), {}, {"x": request.dims(2, 3)}),
        request.pick((4, 3, 64, 64), (2, 3, 224, 224)),
    )


def convnext_tiny(request: Request) -> Built:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = request.pick((8, 16, 24, 32), (96, 192, 384, 768))
    depths = request.pick((1, 1, 1, 1), (3, 3, 9, 3))
    settings = [CNBlockConfig(*block) for block in zip(widths, (*widths[1:], None), depths, strict=True)]
    # The published scale, 1e-6, would hide what the blocks compute.
    model = ConvNeXt(settings, layer_scale=0.5, num_classes=request.pick(10, 1000))
    return Built(model, (request.image(64, 224),), {}, {"x": request.dims(2, 3)})


def vit_b_16(request: Request) -> Built:
    from torchvision.models.vision_transformer import VisionTransformer

    if request.small:
        model = VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10
        )
    else:
        model = VisionTransformer(
            image_size=224, patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072
        )
    return Built(model, (request.image(32, 224),), {}, {"x": request.dims(2, 3)})


def swin_t(request: Request) -> Built:
    from torchvision.models import SwinTransformer

    if request.small:
        model = SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10)
    else:
        model = SwinTransformer([4, 4], 96, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7], stochastic_depth_prob=0.2)
    return Built(model, (request.image(64, 224),), {}, {"x": request.dims(2, 3)})


def deeplabv3_resnet50(request: Request) -> Built:
    from torchvision.models import segmentation
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.resnet import Bottleneck, ResNet

    class Narrow(Bottleneck):
        expansion = 1

    if request.small:
        base = partial(ResNet, Narrow, [1, 1, 1, 1], width_per_group=8)
    else:
        base = partial(ResNet, Bottleneck, [3, 4, 6, 3])
    backbone = IntermediateLayerGetter(base(replace_stride_with_dilation=[False, True, True]), {"layer4": "out"})
    channels, classes = request.pick((512, 4), (2048, 21))
    head = segmentation.deeplabv3.DeepLabHead(channels, classes)
    if request.small:
        head = nn.Sequential(segmentation.deeplabv3.ASPP(channels, [2, 4, 6], 16), nn.Conv2d(16, classes, 1))
    model = segmentation.DeepLabV3(backbone, head)
    return calibrated(
        Built(model, (request.image(64, 224),), {}, {"x": request.dims(2, 3)}),
        request.pick((4, 3, 64, 64), (2, 3, 224, 224)),
    )
