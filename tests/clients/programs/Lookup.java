import java.net.Inet4Address;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.Hashtable;
import javax.naming.Context;
import javax.naming.NameNotFoundException;
import javax.naming.NamingEnumeration;
import javax.naming.directory.Attribute;
import javax.naming.directory.InitialDirContext;

/** Lookup InetAddress|JNDI A|AAAA|both|SRV NAME: prints one record per line, or one line "! ERROR". */
public class Lookup {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("JNDI")) {
            byJndi(args[1], args[2]);
        } else {
            byInetAddress(args[1], args[2]);
        }
    }

    /** InetAddress always looks up both families. */
    private static void byInetAddress(String kind, String name) {
        try {
            for (InetAddress found : InetAddress.getAllByName(name)) {
                if (kind.equals("both") || kind.equals("A") == (found instanceof Inet4Address)) {
                    System.out.println(found.getHostAddress());
                }
            }
        } catch (UnknownHostException error) {
            System.out.println("! UnknownHostException");
        }
    }

    /** JNDI queries the servers of resolv.conf. */
    private static void byJndi(String kind, String name) throws Exception {
        Hashtable<String, String> environment = new Hashtable<>();
        environment.put(Context.INITIAL_CONTEXT_FACTORY, "com.sun.jndi.dns.DnsContextFactory");
        environment.put(Context.PROVIDER_URL, "dns:");
        String[] kinds = kind.equals("both") ? new String[] {"A", "AAAA"} : new String[] {kind};
        try {
            boolean any = false;
            NamingEnumeration<? extends Attribute> all =
                new InitialDirContext(environment).getAttributes(name, kinds).getAll();
            while (all.hasMore()) {
                NamingEnumeration<?> records = all.next().getAll();
                while (records.hasMore()) {
                    System.out.println(records.next());
                    any = true;
                }
            }
            if (!any) {
                System.out.println("! no attributes");
            }
        } catch (NameNotFoundException error) {
            System.out.println("! NameNotFoundException");
        }
    }
}
