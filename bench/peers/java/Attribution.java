import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.core.StreamWriteFeature;
import com.fasterxml.jackson.core.io.SerializedString;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.function.BiConsumer;

/**
 * The work that every Java peer does: decode touches and conversions, weigh a path under five attribution models, split
 * the money exactly, encode credits. Streaming parser and generator (no tree), pre-encoded field names: what a Java
 * engineer who cares for speed would write.
 */
final class Attribution {
  static final long LOOKBACK_MS = 30L * 86_400_000;
  static final double HALF_LIFE_MS = 7.0 * 86_400_000;
  static final String[] NAMES = {"first_touch", "last_touch", "linear", "position_based", "time_decay"};

  private static final JsonFactory JSON =
      JsonFactory.builder()
          .enable(StreamReadFeature.USE_FAST_DOUBLE_PARSER)
          .enable(StreamWriteFeature.USE_FAST_DOUBLE_WRITER)
          .build();

  private Attribution() {}

  /** A touch as a journey keeps it. Public mutable fields make it a Flink POJO. */
  public static class Touch {
    public String person, id, channel, source, medium, campaign, content;
    public long ms;
  }

  /** A conversion; money in micros. */
  public static class Conversion {
    public String person, id, type, currency;
    public long ms, micros;
  }

  static Touch touch(byte[] payload) throws IOException {
    Touch t = new Touch();
    try (JsonParser p = JSON.createParser(payload)) {
      p.nextToken();
      while (p.nextToken() != JsonToken.END_OBJECT) {
        String name = p.currentName();
        p.nextToken();
        switch (name) {
          case "event_id" -> t.id = p.getText();
          case "person_id" -> t.person = p.getText();
          case "occurred_at" -> t.ms = p.getLongValue();
          case "channel" -> t.channel = p.getText();
          case "source" -> t.source = p.getText();
          case "medium" -> t.medium = p.getText();
          case "campaign" -> t.campaign = p.getText();
          case "content" -> t.content = p.getText();
          default -> p.skipChildren();
        }
      }
    }
    return t;
  }

  static Conversion conversion(byte[] payload) throws IOException {
    Conversion c = new Conversion();
    try (JsonParser p = JSON.createParser(payload)) {
      p.nextToken();
      while (p.nextToken() != JsonToken.END_OBJECT) {
        String name = p.currentName();
        p.nextToken();
        switch (name) {
          case "conversion_id" -> c.id = p.getText();
          case "person_id" -> c.person = p.getText();
          case "occurred_at" -> c.ms = p.getLongValue();
          case "type" -> c.type = p.getText();
          case "value" -> c.micros = micros(p.getText());
          case "currency" -> c.currency = p.getText();
          default -> p.skipChildren();
        }
      }
    }
    return c;
  }

  /** "12.34" to 12_340_000, without a binary float. */
  static long micros(String text) {
    int dot = text.indexOf('.');
    if (dot < 0) return Long.parseLong(text) * 1_000_000;
    long fraction = Long.parseLong(text, dot + 1, text.length(), 10);
    for (int digits = text.length() - dot - 1; digits < 6; digits++) fraction *= 10;
    return Long.parseLong(text, 0, dot, 10) * 1_000_000 + fraction;
  }

  static double[][] weights(List<Touch> path, long now) {
    int n = path.size();
    double[][] w = new double[5][n];
    w[0][0] = 1;
    w[1][n - 1] = 1;
    Arrays.fill(w[2], 1.0 / n);
    if (n == 1) w[3][0] = 1;
    else if (n == 2) w[3][0] = w[3][1] = 0.5;
    else {
      Arrays.fill(w[3], 0.2 / (n - 2));
      w[3][0] = w[3][n - 1] = 0.4;
    }
    double sum = 0;
    for (int i = 0; i < n; i++) sum += w[4][i] = Math.pow(2, -(now - path.get(i).ms) / HALF_LIFE_MS);
    for (int i = 0; i < n; i++) w[4][i] /= sum;
    return w;
  }

  /** Largest remainder, ties to the earlier touch; the parts add up to {@code micros} exactly. */
  static long[] split(long micros, double[] w) {
    int n = w.length;
    long[] part = new long[n];
    long[] order = new long[n];
    long rest = micros;
    for (int i = 0; i < n; i++) {
      double exact = micros * w[i];
      part[i] = (long) exact;
      rest -= part[i];
      order[i] = (long) ((1 - (exact - part[i])) * (1L << 40)) << 20 | i;
    }
    if (rest < 0) part[n - 1] += rest;
    if (rest > 0) {
      Arrays.sort(order);
      for (int i = 0; i < rest; i++) part[(int) (order[i] & 0xFFFFF)]++;
    }
    return part;
  }

  /** Order by (time, id) and drop what the lookback excludes. */
  static void select(List<Touch> touches, long now) {
    touches.removeIf(t -> t.ms > now || t.ms < now - LOOKBACK_MS);
    touches.sort(Comparator.<Touch>comparingLong(t -> t.ms).thenComparing(t -> t.id));
  }

  /** All credits of one conversion, as (key, value) records: flat is one a touch, grouped one an attribution model. */
  static void credit(Conversion c, List<Touch> path, boolean flat, BiConsumer<String, byte[]> out)
      throws IOException {
    double[][] w = weights(path, c.ms);
    for (int m = 0; m < NAMES.length; m++) {
      long[] part = split(c.micros, w[m]);
      if (flat) flat(c, path, m, w[m], part, out);
      else grouped(c, path, m, w[m], part, out);
    }
  }

  private static void grouped(
      Conversion c, List<Touch> path, int m, double[] w, long[] part, BiConsumer<String, byte[]> out)
      throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream(256 + 96 * w.length);
    try (JsonGenerator g = JSON.createGenerator(bytes)) {
      g.writeStartObject();
      text(g, CONVERSION_ID, c.id);
      text(g, ATTRIBUTION_MODEL, NAMES[m]);
      text(g, PERSON_ID, c.person);
      text(g, CURRENCY, c.currency);
      number(g, CONVERSION_VALUE_MICROS, c.micros);
      g.writeFieldName(CREDITS);
      g.writeStartArray();
      for (int i = 0; i < w.length; i++) {
        if (w[i] == 0) continue;
        Touch t = path.get(i);
        g.writeStartObject();
        text(g, TOUCH_ID, t.id);
        text(g, CHANNEL, t.channel);
        text(g, CAMPAIGN, t.campaign);
        g.writeFieldName(SHARE);
        g.writeNumber(w[i]);
        number(g, VALUE_MICROS, part[i]);
        g.writeEndObject();
      }
      g.writeEndArray();
      g.writeEndObject();
    }
    out.accept(c.id + "|" + NAMES[m], bytes.toByteArray());
  }

  private static void flat(
      Conversion c, List<Touch> path, int m, double[] w, long[] part, BiConsumer<String, byte[]> out)
      throws IOException {
    int set = 0;
    for (double x : w) if (x != 0) set++;
    for (int i = 0; i < w.length; i++) {
      if (w[i] == 0) continue;
      Touch t = path.get(i);
      String key = c.id + "|" + NAMES[m] + "|" + t.id;
      ByteArrayOutputStream bytes = new ByteArrayOutputStream(640);
      try (JsonGenerator g = JSON.createGenerator(bytes)) {
        g.writeStartObject();
        text(g, CREDIT_ID, key);
        text(g, CONVERSION_ID, c.id);
        text(g, CONVERSION_TYPE, c.type);
        text(g, PERSON_ID, c.person);
        text(g, ATTRIBUTION_MODEL, NAMES[m]);
        number(g, REVISION, 1);
        text(g, STATUS, "credited");
        text(g, TOUCH_ID, t.id);
        text(g, TOUCH_TYPE, "visit");
        text(g, CHANNEL, t.channel);
        text(g, SOURCE, t.source);
        text(g, MEDIUM, t.medium);
        text(g, CAMPAIGN, t.campaign);
        text(g, CONTENT, t.content);
        number(g, TOUCHED_AT, t.ms);
        number(g, CONVERTED_AT, c.ms);
        number(g, POSITION, i + 1);
        number(g, PATH_LENGTH, w.length);
        g.writeFieldName(SHARE);
        g.writeNumber(w[i]);
        number(g, VALUE_MICROS, part[i]);
        text(g, CURRENCY, c.currency);
        number(g, CONVERSION_VALUE_MICROS, c.micros);
        number(g, SET_SIZE, set);
        g.writeFieldName(PATH_TRUNCATED);
        g.writeBoolean(false);
        g.writeFieldName(ADDITIVE);
        g.writeBoolean(true);
        text(g, REASON, "credited");
        text(g, POLICY_VERSION, "00000000");
        g.writeEndObject();
      }
      out.accept(key, bytes.toByteArray());
    }
  }

  private static void text(JsonGenerator g, SerializedString name, String value) throws IOException {
    g.writeFieldName(name);
    g.writeString(value);
  }

  private static void number(JsonGenerator g, SerializedString name, long value) throws IOException {
    g.writeFieldName(name);
    g.writeNumber(value);
  }

  private static final SerializedString
      CREDIT_ID = new SerializedString("credit_id"),
      CONVERSION_ID = new SerializedString("conversion_id"),
      CONVERSION_TYPE = new SerializedString("conversion_type"),
      PERSON_ID = new SerializedString("person_id"),
      ATTRIBUTION_MODEL = new SerializedString("attribution_model"),
      REVISION = new SerializedString("revision"),
      STATUS = new SerializedString("status"),
      TOUCH_ID = new SerializedString("touch_id"),
      TOUCH_TYPE = new SerializedString("touch_type"),
      CHANNEL = new SerializedString("channel"),
      SOURCE = new SerializedString("source"),
      MEDIUM = new SerializedString("medium"),
      CAMPAIGN = new SerializedString("campaign"),
      CONTENT = new SerializedString("content"),
      TOUCHED_AT = new SerializedString("touched_at"),
      CONVERTED_AT = new SerializedString("converted_at"),
      POSITION = new SerializedString("position"),
      PATH_LENGTH = new SerializedString("path_length"),
      SHARE = new SerializedString("share"),
      VALUE_MICROS = new SerializedString("value_micros"),
      CURRENCY = new SerializedString("currency"),
      CONVERSION_VALUE_MICROS = new SerializedString("conversion_value_micros"),
      SET_SIZE = new SerializedString("set_size"),
      PATH_TRUNCATED = new SerializedString("path_truncated"),
      ADDITIVE = new SerializedString("additive"),
      REASON = new SerializedString("reason"),
      POLICY_VERSION = new SerializedString("policy_version"),
      CREDITS = new SerializedString("credits");
}
