// A model of wsi-seg on one tile, outside Python: pixels in, label map out.
//
//   dotnet run -- MODEL.onnx TILE.rgb WIDTH HEIGHT LABELS.raw
//
// TILE.rgb: WIDTH * HEIGHT * 3 bytes, red, green, blue per pixel, row by row, at the resolution of the card (mpp).
// LABELS.raw: WIDTH * HEIGHT bytes, the index of each pixel's class. Sides are multiples of the card's output_stride.
// The card is read from the program (metadata key wsi_seg.card), else from MODEL.onnx.card.json or card.json beside it.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Runtime.Serialization;
using System.Runtime.Serialization.Json;
using System.Text;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace WsiSeg.Client
{
    /// <summary>One class of a card.</summary>
    [DataContract]
    public sealed class SegmentationClass
    {
        [DataMember(Name = "name")] public string Name;
        [DataMember(Name = "colour")] public string Colour;
    }

    /// <summary>The fields of a model card that a prediction needs; what a card leaves out has these defaults.</summary>
    [DataContract]
    public sealed class Card
    {
        [DataMember(Name = "name")] public string Name;
        [DataMember(Name = "classes")] public SegmentationClass[] Classes;
        [DataMember(Name = "channels")] public string Channels;
        [DataMember(Name = "layout")] public string Layout;
        [DataMember(Name = "mean")] public double[] Mean;
        [DataMember(Name = "std")] public double[] Std;
        [DataMember(Name = "activation")] public string Activation;
        [DataMember(Name = "threshold")] public double Threshold;
        [DataMember(Name = "output")] public string Output;

        [OnDeserializing]
        private void SetDefaults(StreamingContext context)
        {
            Channels = "RGB";
            Layout = "NCHW";
            Mean = new double[] { 0, 0, 0 };
            Std = new double[] { 1, 1, 1 };
            Activation = "probabilities";
            Threshold = 0.5;
        }

        /// <summary>The card of a program: inside it, else beside it.</summary>
        public static Card Of(InferenceSession session, string path)
        {
            string text;
            if (!session.ModelMetadata.CustomMetadataMap.TryGetValue("wsi_seg.card", out text))
            {
                string folder = Path.GetDirectoryName(Path.GetFullPath(path));
                string[] places = { path + ".card.json", Path.Combine(folder, "card.json") };
                string beside = places.FirstOrDefault(File.Exists);
                if (beside == null) throw new InvalidDataException(path + " carries no card, and none lies beside it");
                text = File.ReadAllText(beside);
            }
            using (var stream = new MemoryStream(Encoding.UTF8.GetBytes(text)))
            {
                return (Card)new DataContractJsonSerializer(typeof(Card)).ReadObject(stream);
            }
        }
    }

    public static class Program
    {
        /// <summary>(pixel / 255 - mean) / std in float32, as one product and one sum per value, as wsi-seg has it.</summary>
        public static float[] Normalised(byte[] pixels, Card card)
        {
            int n = pixels.Length / 3;
            bool planar = card.Layout == "NCHW";
            var result = new float[3 * n];
            for (int channel = 0; channel < 3; channel++)
            {
                int source = card.Channels == "BGR" ? 2 - channel : channel;
                float scale = (float)(1 / (255 * card.Std[channel]));
                float shift = (float)(-card.Mean[channel] / card.Std[channel]);
                for (int pixel = 0; pixel < n; pixel++)
                {
                    float product = (float)(pixels[3 * pixel + source] * scale); // rounded before the sum
                    result[planar ? channel * n + pixel : 3 * pixel + channel] = (float)(product + shift);
                }
            }
            return result;
        }

        /// <summary>Softmax or sigmoid of one pixel's values, in place, where the program leaves that open.</summary>
        public static void Activate(float[] values, string activation)
        {
            if (activation == "sigmoid")
            {
                for (int c = 0; c < values.Length; c++) values[c] = (float)(1 / (1 + Math.Exp(-values[c])));
            }
            else if (activation == "softmax")
            {
                double largest = values.Max();
                double[] powers = values.Select(value => Math.Exp(value - largest)).ToArray();
                double sum = powers.Sum();
                for (int c = 0; c < values.Length; c++) values[c] = (float)(powers[c] / sum);
            }
        }

        /// <summary>The class of a pixel: by the threshold for one channel, else the largest, the first of equals.</summary>
        public static byte Label(float[] values, Card card)
        {
            if (values.Length == 1) return (byte)(values[0] >= card.Threshold ? 1 : 0);
            int best = 0;
            for (int c = 1; c < values.Length; c++)
            {
                if (values[c] > values[best]) best = c;
            }
            if (values.Length == card.Classes.Length) return (byte)best;
            // Independent classes: class 0 is none of them. Its constant lies one step of 1/65535 below the threshold.
            float none = (float)((Math.Round(card.Threshold * 65535) - 1) / 65535);
            return (byte)(values[best] > none ? best + 1 : 0);
        }

        /// <summary>Labels of an output of one tile.</summary>
        public static byte[] Labels(float[] output, int[] dims, Card card)
        {
            int[] possible = { 1, card.Classes.Length, card.Classes.Length - 1 };
            bool first = possible.Contains(dims[1]), last = possible.Contains(dims[3]);
            bool planar = first == last ? card.Layout == "NCHW" : first;
            int channels = dims[planar ? 1 : 3], n = output.Length / channels;
            var labels = new byte[n];
            var values = new float[channels];
            for (int pixel = 0; pixel < n; pixel++)
            {
                for (int c = 0; c < channels; c++) values[c] = output[planar ? c * n + pixel : pixel * channels + c];
                Activate(values, card.Activation);
                labels[pixel] = Label(values, card);
            }
            return labels;
        }

        public static int Main(string[] arguments)
        {
            if (arguments.Length != 5)
            {
                Console.Error.WriteLine("usage: MODEL.onnx TILE.rgb WIDTH HEIGHT LABELS.raw");
                return 2;
            }
            int width = int.Parse(arguments[2]), height = int.Parse(arguments[3]);
            byte[] pixels = File.ReadAllBytes(arguments[1]);
            if (pixels.Length != width * height * 3)
            {
                Console.Error.WriteLine(arguments[1] + " has " + pixels.Length + " bytes, not WIDTH * HEIGHT * 3");
                return 2;
            }
            using (var session = new InferenceSession(arguments[0]))
            {
                Card card = Card.Of(session, arguments[0]);
                int[] shape = card.Layout == "NCHW" ? new[] { 1, 3, height, width } : new[] { 1, height, width, 3 };
                var image = new DenseTensor<float>(Normalised(pixels, card), shape);
                string name = session.InputMetadata.Keys.First();
                var inputs = new List<NamedOnnxValue> { NamedOnnxValue.CreateFromTensor(name, image) };
                string output = string.IsNullOrEmpty(card.Output) ? session.OutputMetadata.Keys.First() : card.Output;
                using (var results = session.Run(inputs, new[] { output }))
                {
                    Tensor<float> answer = results.First().AsTensor<float>();
                    int[] dims = answer.Dimensions.ToArray();
                    File.WriteAllBytes(arguments[4], Labels(answer.ToArray(), dims, card));
                }
            }
            return 0;
        }
    }
}
