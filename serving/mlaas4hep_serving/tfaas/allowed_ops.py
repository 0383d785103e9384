"""The ops that an uploaded model may have, each looked at, by name: an op that is not here is refused.

What belongs here computes its outputs from its inputs, or keeps variables and tables of the model's own.  What does
not: an op that names a file, a region of memory, a device, an address, another process, a function of the host or a
callback (`ImmutableConst`, `ReadFile`, `PyFunc`, `Remote*`, `*Dataset*`, `Debug*`); one that ends or stops the process
(`Abort`, `Barrier*`, queues, locks); one that writes elsewhere than to its outputs (`Print*`, `*Summary*`); one that
makes handles or variants of bytes (`ParseTensor`); what TensorFlow makes for itself (``_Mkl*``, quantised and fused
kernels, XLA, DTensor, TPU); the ops of its own tests; gradients and optimizers, which serving does not need.

A release of TensorFlow that brings new ops changes nothing here: they are refused until somebody has looked at them.
"""

from __future__ import annotations

_GRAPH = """
Const Placeholder PlaceholderV2 PlaceholderWithDefault NoOp Identity IdentityN StopGradient PreventGradient
EnsureShape Assert CheckNumerics ControlTrigger FakeParam PartitionedCall StatefulPartitionedCall If StatelessIf While
StatelessWhile Case StatelessCase Enter Exit Merge Switch NextIteration LoopCond
"""

_VARIABLES = """
VarHandleOp VarIsInitializedOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp VariableShape
DisableCopyOnRead ResourceGather ResourceGatherNd ResourceScatterAdd ResourceScatterUpdate ResourceScatterNdUpdate
ResourceStridedSliceAssign Variable VariableV2 IsVariableInitialized Assign AssignAdd AssignSub
"""

_TABLES = """
HashTable HashTableV2 AnonymousHashTable MutableHashTable MutableHashTableV2 AnonymousMutableHashTable
MutableDenseHashTable MutableDenseHashTableV2 InitializeTable InitializeTableV2 LookupTableFind LookupTableFindV2
LookupTableImport LookupTableImportV2 LookupTableInsert LookupTableInsertV2 LookupTableExport LookupTableExportV2
LookupTableSize LookupTableSizeV2
"""

_LISTS = """
TensorArrayV3 TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3
TensorArraySizeV3 TensorArraySplitV3 TensorArrayWriteV3 EmptyTensorList TensorListReserve TensorListFromTensor
TensorListStack TensorListGather TensorListGetItem TensorListSetItem TensorListPushBack TensorListPopBack
TensorListLength TensorListElementShape TensorListResize TensorListScatter TensorListScatterV2
TensorListScatterIntoExistingList TensorListConcat TensorListConcatV2 TensorListConcatLists TensorListPushBackBatch
TensorListSplit
"""

_SHAPES = """
Shape ShapeN Size Rank Reshape ExpandDims Squeeze Transpose ConjugateTranspose InvertPermutation BroadcastTo
BroadcastArgs Concat ConcatV2 ConcatOffset ParallelConcat Pack Unpack Split SplitV Slice StridedSlice
TensorStridedSliceUpdate Tile Pad PadV2 MirrorPad Reverse ReverseV2 ReverseSequence Roll Gather GatherV2 GatherNd
ScatterNd TensorScatterAdd TensorScatterSub TensorScatterMax TensorScatterMin TensorScatterUpdate
ScatterNdNonAliasingAdd DynamicPartition DynamicStitch ParallelDynamicStitch Select SelectV2 Where OneHot Fill
ZerosLike OnesLike Range LinSpace Empty Bitcast Cast UnravelIndex SpaceToBatch SpaceToBatchND BatchToSpace
BatchToSpaceND SpaceToDepth DepthToSpace DataFormatDimMap DataFormatVecPermute Unique UniqueV2 UniqueWithCounts
UniqueWithCountsV2 ListDiff LowerBound UpperBound TopK TopKV2 ApproxTopK NthElement InTopK InTopKV2 ArgMax ArgMin
"""

_MATH = """
Abs Acos Acosh Add AddN AddV2 AccumulateNV2 All Angle Any ApproximateEqual Asin Asinh Atan Atan2 Atanh BesselI0
BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1 Betainc
Bincount BitwiseAnd BitwiseOr BitwiseXor Bucketize Ceil ClipByValue Complex ComplexAbs Conj Cos Cosh Cross Cumprod
Cumsum CumulativeLogsumexp Dawsn DenseBincount Digamma Div DivNoNan Equal Erf Erfc Erfinv EuclideanNorm Exp Expint
Expm1 FFT FFT2D FFT3D FFTND Floor FloorDiv FloorMod FresnelCos FresnelSin Greater GreaterEqual HistogramFixedWidth
IFFT IFFT2D IFFT3D IFFTND IRFFT IRFFT2D IRFFT3D IRFFTND Igamma Igammac Imag Inv Invert IsFinite IsInf IsNan LeftShift
Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr Max Maximum Mean Min Minimum Mod Mul MulNoNan Ndtri
Neg NextAfter NotEqual Polygamma PopulationCount Pow Prod RFFT RFFT2D RFFT3D RFFTND Real RealDiv Reciprocal RightShift
Rint Round Rsqrt SegmentMax SegmentMaxV2 SegmentMean SegmentMin SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum
SegmentSumV2 Sign Sin Sinh SobolSample Spence Sqrt Square SquaredDifference Sub Sum Tan Tanh ToBool TruncateDiv
TruncateMod UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum Xdivy Xlog1py Xlogy Zeta
"""

_RANDOM = """
RandomStandardNormal RandomUniform RandomUniformInt RandomGamma RandomPoisson RandomPoissonV2 RandomShuffle
TruncatedNormal Multinomial StatefulStandardNormalV2 StatefulTruncatedNormal StatefulUniform StatefulUniformFullInt
StatefulUniformInt StatefulRandomBinomial RngSkip RngReadAndSkip StatelessMultinomial StatelessRandomBinomial
StatelessRandomGammaV2 StatelessRandomGammaV3 StatelessRandomGetAlg StatelessRandomGetKeyCounter
StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomPoisson
StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt
StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessShuffle StatelessTruncatedNormal
StatelessTruncatedNormalV2 StatelessParameterizedTruncatedNormal RandomIndexShuffle
"""

_LINEAR_ALGEBRA = """
MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum Diag DiagPart MatrixDiag MatrixDiagV2 MatrixDiagV3
MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixBandPart
MatrixDeterminant LogMatrixDeterminant MatrixInverse MatrixSolve MatrixSolveLs MatrixTriangularSolve
BandedTriangularSolve TridiagonalMatMul TridiagonalSolve MatrixExponential MatrixLogarithm MatrixSquareRoot Cholesky
Qr Lu Svd Eig SelfAdjointEigV2
"""

_NETWORKS = """
BiasAdd BiasAddV1 Relu Relu6 LeakyRelu Elu Selu Sigmoid Softplus Softsign Softmax LogSoftmax L2Loss LRN Conv Conv2D
Conv3D DepthwiseConv2dNative Conv2DBackpropInput Conv2DBackpropInputV2 Conv3DBackpropInput Conv3DBackpropInputV2
Dilation2D AvgPool AvgPool3D MaxPool MaxPoolV2 MaxPool3D MaxPoolWithArgmax FractionalAvgPool FractionalMaxPool
FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 BatchNormWithGlobalNormalization SoftmaxCrossEntropyWithLogits
SparseSoftmaxCrossEntropyWithLogits BlockLSTM BlockLSTMV2 LSTMBlockCell GRUBlockCell CTCGreedyDecoder
CTCBeamSearchDecoder FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4
"""

_IMAGES = """
AdjustContrastv2 AdjustHue AdjustSaturation CropAndResize ExtractGlimpseV2 ExtractImagePatches ExtractVolumePatches
HSVToRGB RGBToHSV ImageProjectiveTransformV2 ImageProjectiveTransformV3 ResizeArea ResizeBicubic ResizeBilinear
ResizeNearestNeighbor ScaleAndTranslate NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4
NonMaxSuppressionV5 NonMaxSuppressionWithOverlaps CombinedNonMaxSuppression DrawBoundingBoxes DrawBoundingBoxesV2
DecodeImage DecodeJpeg DecodePng DecodeBmp DecodeAndCropJpeg EncodeJpeg EncodePng ExtractJpegShape
"""

_STRINGS = """
AsString StringFormat StringJoin StringLength StringLower StringUpper StringNGrams StringSplit StringSplitV2
StringStrip StringToHashBucket StringToHashBucketFast StringToHashBucketStrong StringToNumber Substr ReduceJoin
UnsortedSegmentJoin RegexFullMatch RegexReplace StaticRegexFullMatch StaticRegexReplace UnicodeDecode
UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode DecodeBase64 EncodeBase64 DecodeRaw
DecodePaddedRaw DecodeCSV EditDistance Fingerprint ParseExample ParseExampleV2 ParseSingleExample ParseSequenceExample
ParseSequenceExampleV2 ParseSingleSequenceExample
"""

_RAGGED_AND_SPARSE = """
RaggedBincount RaggedCountSparseOutput RaggedCross RaggedFillEmptyRows RaggedGather RaggedRange
RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant SparseAdd SparseBincount
SparseConcat SparseCountSparseOutput SparseCross SparseCrossHashed SparseCrossV2 SparseDenseCwiseAdd
SparseDenseCwiseDiv SparseDenseCwiseMul SparseFillEmptyRows SparseMatMul SparseReduceMax SparseReduceMaxSparse
SparseReduceSum SparseReduceSumSparse SparseReorder SparseReshape SparseSegmentMean SparseSegmentMeanWithNumSegments
SparseSegmentSqrtN SparseSegmentSqrtNWithNumSegments SparseSegmentSum SparseSegmentSumWithNumSegments SparseSlice
SparseSoftmax SparseSparseMaximum SparseSparseMinimum SparseSplit SparseTensorDenseAdd SparseTensorDenseMatMul
SparseToDense DenseToDenseSetOperation DenseToSparseSetOperation SparseToSparseSetOperation SetSize
DenseCountSparseOutput
"""

_SAVER = "ShardedFilename"  # the name of a part of the variables' file; what reads and writes it is looked at elsewhere

ALLOWED = frozenset(
    " ".join(
        (
            _GRAPH, _VARIABLES, _TABLES, _LISTS, _SHAPES, _MATH, _RANDOM, _LINEAR_ALGEBRA, _NETWORKS, _IMAGES, _STRINGS,
            _RAGGED_AND_SPARSE, _SAVER,
        )
    ).split()
)  # fmt: skip
