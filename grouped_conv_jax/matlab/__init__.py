"""Layers, networks and training under the names and conventions of MATLAB.

Example:
    >>> from grouped_conv_jax.matlab import groupedConvolution2dLayer
    >>> layer = groupedConvolution2dLayer(11, 10, 3, Name="gconv1")
    >>> print(layer)
      GroupedConvolution2DLayer with properties:
    <BLANKLINE>
                       Name: 'gconv1'
    <BLANKLINE>
       Hyperparameters
                 FilterSize: [11 11]
                  NumGroups: 3
        NumChannelsPerGroup: 'auto'
         NumFiltersPerGroup: 10
                     Stride: [1 1]
             DilationFactor: [1 1]
                PaddingMode: 'manual'
                PaddingSize: [0 0 0 0]
               PaddingValue: 0
    <BLANKLINE>
       Learnable Parameters
                    Weights: []
                       Bias: []
"""

from grouped_conv_jax.matlab._analysis import analyze
from grouped_conv_jax.matlab._batch_normalization import (
    BatchNormalizationLayer,
    batchNormalizationLayer,
)
from grouped_conv_jax.matlab._convolutions import (
    Convolution2DLayer,
    GroupedConvolution2DLayer,
    convolution2dLayer,
    groupedConvolution2dLayer,
)
from grouped_conv_jax.matlab._fully_connected import FullyConnectedLayer, fullyConnectedLayer
from grouped_conv_jax.matlab._image_input import ImageInputLayer, imageInputLayer
from grouped_conv_jax.matlab._layer_array import LayerArray, layers
from grouped_conv_jax.matlab._network_file import assembleNetwork, load_network
from grouped_conv_jax.matlab._pooling import (
    AveragePooling2DLayer,
    MaxPooling2DLayer,
    averagePooling2dLayer,
    maxPooling2dLayer,
)
from grouped_conv_jax.matlab._simple_layers import (
    ClassificationOutputLayer,
    DropoutLayer,
    GlobalAveragePooling2DLayer,
    ReLULayer,
    SoftmaxLayer,
    classificationLayer,
    dropoutLayer,
    globalAveragePooling2dLayer,
    reluLayer,
    softmaxLayer,
)
from grouped_conv_jax.matlab._trained_network import TrainedNetwork, classify, predict
from grouped_conv_jax.matlab._training import trainNetwork
from grouped_conv_jax.matlab._training_options import TrainingOptions, trainingOptions

__all__ = [
    "AveragePooling2DLayer",
    "BatchNormalizationLayer",
    "ClassificationOutputLayer",
    "Convolution2DLayer",
    "DropoutLayer",
    "FullyConnectedLayer",
    "GlobalAveragePooling2DLayer",
    "GroupedConvolution2DLayer",
    "ImageInputLayer",
    "LayerArray",
    "MaxPooling2DLayer",
    "ReLULayer",
    "SoftmaxLayer",
    "TrainedNetwork",
    "TrainingOptions",
    "analyze",
    "assembleNetwork",
    "averagePooling2dLayer",
    "batchNormalizationLayer",
    "classificationLayer",
    "classify",
    "convolution2dLayer",
    "dropoutLayer",
    "fullyConnectedLayer",
    "globalAveragePooling2dLayer",
    "groupedConvolution2dLayer",
    "imageInputLayer",
    "layers",
    "load_network",
    "maxPooling2dLayer",
    "predict",
    "reluLayer",
    "softmaxLayer",
    "trainNetwork",
    "trainingOptions",
]
